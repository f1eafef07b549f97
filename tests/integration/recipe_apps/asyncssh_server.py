"""asyncssh: asyncssh_server.py PORT."""

import asyncio
import sys

import asyncssh


class Anybody(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


async def echo(process):
    async for line in process.stdin:
        process.stdout.write(line)
    process.exit(0)


async def main():
    # recipe
    key = asyncssh.generate_private_key("ssh-ed25519")
    await asyncssh.listen(
        "127.0.0.1",
        int(sys.argv[1]),
        server_factory=Anybody,
        server_host_keys=[key],
        process_factory=echo,
        login_timeout=600,
        keepalive_interval=1,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
