"""Idle timeouts of known middleboxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Tell when a middlebox forgets an idle flow, and what refreshes it."""

    name: str
    title: str
    """The product with its article: ``"an AWS NLB"``."""
    timeout: float
    """Seconds of idleness after which the flow is forgotten."""
    layer: str
    """``"L4"``: any segment refreshes it. ``"L7"``: only payload does, keepalive cannot."""
    source: str
    note: str = ""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                "aws-nlb",
                "an AWS NLB",
                350,
                "L4",
                "docs.aws.amazon.com/elasticloadbalancing/latest/network/update-idle-timeout.html",
            ),
            Preset(
                "azure-lb",
                "an Azure Load Balancer",
                240,
                "L4",
                "learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset",
            ),
        )
    }
)
