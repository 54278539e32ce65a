"""Protocols of a comparison by name: what each trains on, what it tests on, and its table."""

from comparison.protocols.base_to_new import BaseToNew
from comparison.protocols.few_shot import FewShot
from comparison.protocols.hierarchical import Hierarchical
from comparison.protocols.multi_label import MultiLabel
from comparison.protocols.protocol import Protocol
from comparison.protocols.tasks import Tasks
from comparison.protocols.transfer import DomainGeneralisation, Transfer

PROTOCOLS: dict[str, Protocol] = {
    'few-shot': FewShot(),
    'base-to-new': BaseToNew(),
    'transfer': Transfer(),
    'domain-generalisation': DomainGeneralisation(),
    'multi-label': MultiLabel(),
    'hierarchical': Hierarchical(),
    'tasks': Tasks(),
}

__all__ = ['PROTOCOLS', 'Protocol']
