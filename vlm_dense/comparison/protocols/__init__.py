"""Protocols of a comparison by name: what each trains on, what it tests on, and its table."""

from vlm_dense.comparison.protocols.base_to_new import BaseToNew
from vlm_dense.comparison.protocols.few_shot import FewShot
from vlm_dense.comparison.protocols.hierarchical import Hierarchical
from vlm_dense.comparison.protocols.multi_label import MultiLabel
from vlm_dense.comparison.protocols.open_vocabulary import OpenVocabulary
from vlm_dense.comparison.protocols.open_vocabulary_detection import OpenVocabularyDetection
from vlm_dense.comparison.protocols.protocol import Protocol
from vlm_dense.comparison.protocols.tasks import Tasks
from vlm_dense.comparison.protocols.transfer import DomainGeneralisation, Transfer

PROTOCOLS: dict[str, Protocol] = {
    'few-shot': FewShot(),
    'base-to-new': BaseToNew(),
    'transfer': Transfer(),
    'domain-generalisation': DomainGeneralisation(),
    'multi-label': MultiLabel(),
    'hierarchical': Hierarchical(),
    'tasks': Tasks(),
    'open-vocabulary': OpenVocabulary(),
    'open-vocabulary-detection': OpenVocabularyDetection(),
}

__all__ = ['PROTOCOLS', 'Protocol']
