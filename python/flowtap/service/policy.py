"""From the configuration to what the control plane and the notifier want to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowtap.config.schema import endpoint
from flowtap.control import Bandwidth, ContentDestination, ControlSource, Policy, ProtectedPath
from flowtap.dtcp import Delivery, Version
from flowtap.service.filters import FilterSpace
from flowtap.service.notify import Recipient

if TYPE_CHECKING:
    from flowtap.config.schema import Configuration, ContentDestinationSection, ControlSourceSection

__all__ = ["policy", "rates", "recipients", "strict_sources"]


def policy(values: Configuration) -> Policy:
    """Who may do what."""
    return Policy(
        control_sources={
            name: _control_source(name, source, values) for name, source in values.control_source.items()
        },
        content_destinations={
            name: _content_destination(name, section) for name, section in values.content_destination.items()
        },
        outer_sources=tuple(values.policy.source_addresses),
        max_criteria=values.policy.max_criteria,
        max_content_destinations=values.policy.max_content_destinations,
        duplicates_dropped_period_s=values.policy.duplicates_dropped_period_s,
        protected=tuple(
            ProtectedPath(tuple(section.local_networks), tuple(section.remote_networks))
            for section in values.tunnel.values()
        ),
        needs_tunnel=values.policy.require_tunnel,
    )


def _control_source(name: str, source: ControlSourceSection, values: Configuration) -> ControlSource:
    everybody = values.policy
    allowed = [str(each) for each in source.allowed_prefixes]
    excluded = dict.fromkeys([*everybody.excluded_prefixes, *source.excluded_prefixes])
    return ControlSource(
        id=name,
        allowed_destinations=frozenset(source.allowed_destinations),
        allowed_space=FilterSpace(allowed) if allowed else None,
        excluded=tuple(str(each) for each in excluded),
        # The stricter one of what holds for everybody and for this one.
        narrowest_v4=max(source.narrowest_prefix_v4, everybody.narrowest_prefix_v4),
        narrowest_v6=max(source.narrowest_prefix_v6, everybody.narrowest_prefix_v6),
        max_criteria=source.max_criteria,
        max_lifetime_s=source.max_lifetime_s,
        minimum_priority=source.minimum_priority,
        needs_order=source.require_order or everybody.require_order,
        needs_approval=source.require_approval or everybody.require_approval,
    )


def _content_destination(name: str, section: ContentDestinationSection) -> ContentDestination:
    return ContentDestination(
        id=name,
        delivery=Delivery(
            section.address,
            section.port,
            section.source_address,
            section.source_port,
            section.ttl,
        ),
        refuse_oversize=section.oversize == "refuse",
        bandwidth=Bandwidth(
            soft_limit_bps=section.soft_limit_bps,
            soft_clear_bps=section.soft_limit_clear_bps,
            hard_limit_bps=section.hard_limit_bps,
            hard_target_bps=section.hard_limit_target_bps,
        ),
    )


def rates(values: Configuration) -> dict[str, tuple[int, int]]:
    """Packets and bits a second that may be copied for each control source; 0 for any number."""
    return {
        name: (source.max_packets_per_s, source.max_bits_per_s)
        for name, source in values.control_source.items()
    }


def recipients(values: Configuration) -> dict[str, Recipient]:
    """Who wants notifications, where, and in which version."""
    found = {}
    for name, source in values.control_source.items():
        version = None
        if source.notification_version is not None:
            major, _, minor = source.notification_version.partition(".")
            version = Version(int(major), int(minor))
        targets = tuple(endpoint(text) for text in source.notification_targets)
        found[name] = Recipient(targets, version)
    return found


def strict_sources(values: Configuration) -> frozenset[str]:
    """Control sources whose sequence numbers are checked over SSH as well."""
    sources = values.control_source.items()
    return frozenset(name for name, source in sources if source.sequence == "strict")
