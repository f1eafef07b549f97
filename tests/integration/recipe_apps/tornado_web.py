"""Tornado: tornado_web.py PORT [CERTIFICATE KEY]."""

import asyncio
import ssl
import sys

from tornado.web import Application, RequestHandler


class Answer(RequestHandler):
    async def get(self):
        await asyncio.sleep(float(self.get_query_argument("s", "0")))
        self.write(f"{len(self.request.body)} bytes")

    post = get


class Stream(RequestHandler):
    async def get(self):
        for number in range(int(self.get_query_argument("n"))):
            self.write(f"data: {number}\n\n")
            await self.flush()
            await asyncio.sleep(1)


async def main():
    port, *pair = sys.argv[1:]
    context = None
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
    application = Application([("/stream", Stream), ("/.*", Answer)])
    application.listen(int(port), "127.0.0.1", ssl_options=context)
    # recipe
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
