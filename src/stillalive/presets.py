"""Idle timeouts of known middleboxes: a table of data with its sources.

A row is here because somebody who must know has written the number down: the
vendor, the standard, the source code, or a measurement. Defaults change and
administrators change them; a number of your own beats every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Tell when a middlebox forgets an idle flow, and what refreshes it.

    Threads: immutable, share it freely.

    >>> PRESETS["aws-nlb"].timeout
    350
    """

    name: str
    title: str
    """The product with its article: ``"an AWS NLB"``."""
    timeout: float
    """Seconds of idleness after which the flow is forgotten."""
    layer: str
    """``"L4"``: any segment refreshes it. ``"L7"``: only payload does, keepalive cannot."""
    source: str
    """Where the number is written down."""
    note: str = ""


_AWS_ELB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/"
_AWS_EC2_CONNTRACK = (
    "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/"
    "API_ConnectionTrackingConfiguration.html"
)
_GCP_LB = "https://cloud.google.com/load-balancing/docs/https/request-distribution"
_CLOUDFLARE = "https://developers.cloudflare.com/fundamentals/reference/connection-limits"
_KUBE_PROXY = "https://kubernetes.io/docs/reference/command-line-tools-reference/kube-proxy/"
_NSX = (
    "https://developer.broadcom.com/xapis/nsx-t-data-center-rest-api/latest/"
    "types_FirewallSessionTimerProfile.html"
)

_CLOUD_L4 = (
    Preset(
        "aws-nlb",
        "an AWS NLB",
        350,
        "L4",
        _AWS_ELB + "network/update-idle-timeout.html",
        "TCP listener; 60 to 6000 s; forgets silently, a reset answers the next packet",
    ),
    Preset(
        "aws-nlb-tls",
        "an AWS NLB with a TLS listener",
        350,
        "L4",
        _AWS_ELB + "network/update-idle-timeout.html",
        "fixed",
    ),
    Preset(
        "aws-nat-gateway",
        "an AWS NAT gateway",
        350,
        "L4",
        "https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html",
        "fixed; no FIN, a reset answers the next packet",
    ),
    Preset(
        "aws-network-firewall",
        "an AWS Network Firewall",
        350,
        "L4",
        "https://docs.aws.amazon.com/network-firewall/latest/APIReference/API_FlowTimeouts.html",
        "60 to 6000 s",
    ),
    Preset(
        "aws-ec2-conntrack",
        "an EC2 security group",
        432000,
        "L4",
        _AWS_EC2_CONNTRACK,
        "60 to 432000 s; drops silently; 350 s on Nitro v6 instances",
    ),
    Preset(
        "aws-ec2-conntrack-nitro-v6",
        "an EC2 security group on a Nitro v6 instance",
        350,
        "L4",
        _AWS_EC2_CONNTRACK,
        "60 to 432000 s; drops silently; not on P6e-GB200",
    ),
    Preset(
        "gcp-vpc",
        "a GCP VPC",
        600,
        "L4",
        "https://cloud.google.com/compute/docs/troubleshooting/general-tips",
        "fixed; drops silently",
    ),
    Preset(
        "gcp-cloud-nat",
        "a GCP Cloud NAT",
        1200,
        "L4",
        "https://cloud.google.com/sdk/gcloud/reference/compute/routers/nats/create",
        "settable; connections that open or close: 30 s; drops silently",
    ),
    Preset(
        "azure-lb",
        "an Azure Load Balancer",
        240,
        "L4",
        "https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset",
        "4 to 100 min; drops silently unless TCP reset is switched on",
    ),
    Preset(
        "azure-nat-gateway",
        "an Azure NAT gateway",
        240,
        "L4",
        "https://learn.microsoft.com/azure/nat-gateway/nat-gateway-resource",
        "4 to 120 min; silent, a reset in one direction once traffic comes",
    ),
    Preset(
        "azure-private-5g",
        "an Azure private 5G NAPT pinhole",
        180,
        "L4",
        "Azure Private 5G Core documentation, NAPT pinhole timeouts",
        "settable",
    ),
    Preset(
        "ibm-vpc-gateway",
        "an IBM VPC public gateway",
        240,
        "L4",
        "IBM Cloud VPC documentation, public gateways",
        "fixed",
    ),
    Preset(
        "twilio-super-sim",
        "the NAT of Twilio Super SIM",
        21600,
        "L4",
        "https://www.twilio.com/docs/iot/supersim/super-sim-network-timeouts",
        "the visited carrier may forget earlier",
    ),
)

_CLOUD_L7 = (
    Preset(
        "aws-alb",
        "an AWS ALB",
        60,
        "L7",
        _AWS_ELB + "application/edit-load-balancer-attributes.html",
        "1 to 4000 s; an HTTP/2 PING does not refresh it; 502 if the target closes first",
    ),
    Preset(
        "aws-classic-elb",
        "an AWS Classic ELB",
        60,
        "L7",
        _AWS_ELB + "classic/config-idle-timeout.html",
        "1 to 4000 s; it ends TCP itself, so TCP listeners are no exception",
    ),
    Preset(
        "aws-ecs-service-connect",
        "an AWS ECS Service Connect proxy",
        300,
        "L7",
        "Amazon ECS documentation, Service Connect timeouts",
        "settable; 300 s for HTTP, 3600 s for TCP",
    ),
    Preset(
        "aws-cloudfront-origin",
        "the origin side of AWS CloudFront",
        5,
        "L7",
        "Amazon CloudFront documentation, origin keep-alive timeout",
        "1 to 60 s, up to 180 s by quota",
    ),
    Preset(
        "gcp-app-lb-client",
        "the client side of a GCP Application Load Balancer",
        610,
        "L7",
        _GCP_LB,
        "5 to 1200 s",
    ),
    Preset(
        "gcp-app-lb-backend",
        "the backend side of a GCP Application Load Balancer",
        600,
        "L7",
        _GCP_LB,
        "fixed; the backend's own timeout must be longer",
    ),
    Preset(
        "oci-lb",
        "an OCI Load Balancer",
        65,
        "L7",
        "Oracle Cloud documentation, load balancer timeouts",
        "settable; 65 s on the client side, 300 s on the backend side",
    ),
    Preset(
        "huawei-elb-http",
        "a Huawei ELB with an HTTP listener",
        60,
        "L7",
        "Huawei Cloud ELB documentation, idle timeout",
        "settable",
    ),
    Preset(
        "alibaba-proxy-firewall",
        "an Alibaba explicit proxy firewall",
        300,
        "L7",
        "Alibaba Cloud documentation, explicit proxy timeouts",
        "300 s for a tunnel, 3600 s for a kept-alive connection",
    ),
    Preset(
        "cloudflare",
        "the client side of Cloudflare",
        400,
        "L7",
        _CLOUDFLARE,
        "HTTP/1.1 and HTTP/2; settable on enterprise plans",
    ),
    Preset(
        "cloudflare-origin",
        "the origin side of Cloudflare",
        900,
        "L7",
        _CLOUDFLARE,
        "it sends TCP keepalive every 30 s itself; 120 s without an answer byte is an error 52x",
    ),
    Preset(
        "heroku-router",
        "a Heroku router",
        90,
        "L7",
        "https://devcenter.heroku.com/articles/http-routing#keepalives",
        "router 2.0; a server that closes earlier races with it",
    ),
)

_CONTAINERS = (
    Preset(
        "docker-swarm",
        "a Docker Swarm overlay (IPVS)",
        900,
        "L4",
        "https://github.com/moby/moby/issues/31208",
        "silent, a reset answers the next packet; 120 s after a FIN",
    ),
    Preset(
        "kube-proxy-ipvs",
        "kube-proxy in IPVS mode",
        900,
        "L4",
        _KUBE_PROXY,
        "--ipvs-tcp-timeout",
    ),
    Preset(
        "kube-proxy-conntrack",
        "kube-proxy with conntrack",
        86400,
        "L4",
        _KUBE_PROXY,
        "--conntrack-tcp-timeout-established; 3600 s in CLOSE_WAIT",
    ),
    Preset(
        "linux-conntrack",
        "Linux conntrack",
        432000,
        "L4",
        "net.netfilter.nf_conntrack_tcp_timeout_established, read on Linux 6.18",
        "300 s once data is unacknowledged or retransmitted, 120 s after a FIN",
    ),
    Preset(
        "ingress-nginx-stream",
        "a TCP service of ingress-nginx",
        600,
        "L7",
        "https://github.com/hashicorp/boundary/issues/3133",
        "proxy-stream-timeout, between two reads or writes",
    ),
)

_ORIGINS = (
    Preset(
        "nginx",
        "nginx",
        75,
        "L7",
        "https://nginx.org/en/docs/http/ngx_http_core_module.html#keepalive_timeout",
        "HTTP keepalive_timeout",
    ),
    Preset(
        "gunicorn",
        "gunicorn",
        2,
        "L7",
        "https://docs.gunicorn.org/en/stable/settings.html#keepalive",
        "shorter than most balancers keep a connection: 502 by race",
    ),
    Preset(
        "uvicorn",
        "uvicorn",
        5,
        "L7",
        "https://www.uvicorn.org/settings/#timeouts",
        "shorter than most balancers keep a connection: 502 by race",
    ),
    Preset(
        "hypercorn",
        "hypercorn",
        5,
        "L7",
        "https://hypercorn.readthedocs.io/en/latest/how_to_guides/configuring.html",
        "shorter than most balancers keep a connection: 502 by race",
    ),
    Preset(
        "aiohttp",
        "an aiohttp server",
        75,
        "L7",
        "https://docs.aiohttp.org/en/stable/web_reference.html",
        "run_app; 3630 s where the request handler is used without it",
    ),
)

_FIREWALLS = (
    Preset(
        "cisco-asa",
        "a Cisco ASA or FTD",
        3600,
        "L4",
        "https://www.cisco.com/c/en/us/support/docs/security/secure-firewall-asa/"
        "222075-configure-connection-timeout-for-specifi.html",
        "settable; 600 s when half-closed",
    ),
    Preset(
        "cisco-ios-nat",
        "a Cisco IOS NAT",
        86400,
        "L4",
        "Cisco IOS IP addressing command reference, ip nat translation tcp-timeout",
        "settable",
    ),
    Preset(
        "palo-alto",
        "a Palo Alto firewall",
        3600,
        "L4",
        "https://docs.paloaltonetworks.com/ngfw/networking/session-settings-and-timeouts/"
        "configure-session-timeouts/configure-session-timeouts-pan-os",
        "1 to 15999999 s; an application may have its own",
    ),
    Preset(
        "fortigate",
        "a FortiGate",
        3600,
        "L4",
        "https://community.fortinet.com/t5/FortiGate/"
        "Technical-Tip-Default-session-timeout-value-session-ttl/ta-p/194357",
        "settable; a policy may have its own",
    ),
    Preset(
        "kaspersky-ngfw",
        "a Kaspersky NGFW",
        3600,
        "L4",
        "Kaspersky NGFW documentation, session timeouts",
    ),
    Preset(
        "vmware-nsx-gateway",
        "a VMware NSX gateway firewall",
        7200,
        "L4",
        _NSX,
        "settable",
    ),
    Preset(
        "vmware-nsx-dfw",
        "a VMware NSX distributed firewall",
        43200,
        "L4",
        _NSX,
        "settable",
    ),
    Preset(
        "windows-netnat",
        "a Windows NetNat",
        1800,
        "L4",
        "https://learn.microsoft.com/powershell/module/netnat/set-netnat",
        "settable",
    ),
    Preset(
        "corporate-firewall",
        "a corporate firewall",
        3600,
        "L4",
        "https://docs.nais.io/workloads/how-to/gcp-fss-communication",
        "one operator's; an hour is also the default of several products here",
    ),
    Preset(
        "unknown-nat",
        "an unknown NAT",
        30,
        "L4",
        "https://github.com/MaterializeInc/materialize/tree/main/src/ssh-util",
        "30 s has been met often enough that others plan for it",
    ),
)

_STANDARDS = (
    Preset(
        "rfc5382",
        "a NAT that follows RFC 5382",
        7440,
        "L4",
        "https://www.rfc-editor.org/rfc/rfc5382",
        "REQ-5: at least 2 h 4 min, which the default idle time of 2 h just meets",
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for rows in (_CLOUD_L4, _CLOUD_L7, _CONTAINERS, _ORIGINS, _FIREWALLS, _STANDARDS)
        for preset in rows
    }
)
"""Middleboxes by name; ``middlebox=`` of :func:`tune` takes any of the names."""
