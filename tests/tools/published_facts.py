"""What papers and their releases say of CoOp's eleven sets: written from the method cards, not from our recipes.

``facts(method, dataset, protocol, shots)`` is ``None`` where they say nothing, else what a plan must show: ``training``
(length, unit, batch, rate; ``None`` without training), ``warm_up`` of groups, ``sentences`` and ``switches``, keys of
the config and their values.
"""

from __future__ import annotations

PLAIN = 'a photo of a {}.'
COOP = dict(
    imagenet=PLAIN,
    caltech101=PLAIN,
    oxford_pets='a photo of a {}, a type of pet.',
    stanford_cars=PLAIN,
    oxford_flowers='a photo of a {}, a type of flower.',
    food101='a photo of {}, a type of food.',
    fgvc_aircraft='a photo of a {}, a type of aircraft.',
    sun397=PLAIN,
    dtd='{} texture.',
    eurosat='a centered satellite photo of {}.',
    ucf101='a photo of a person doing {}.',
)
ELEVEN = tuple(COOP)
ONE_EPOCH = '1 epochs at 1e-05'
WORDS = {'model.text_prompt.words': ['a photo of a']}
TEMPLATES, TEMPLATE = 'model.text_prompt.templates', 'model.text_prompt.template'
VIEWS, MIX = (f'test_dataloader.dataset.pipeline.1.{name}' for name in ('num_views', 'mix'))
SEVEN, EIGHTY = 'imagenet7: 7 sentences', 'imagenet80: 80 sentences'

VARIATIONAL = dict(  # samples, epochs
    imagenet=(10, 10), caltech101=(20, 20), oxford_pets=(40, 20), stanford_cars=(20, 40), oxford_flowers=(10, 40),
    food101=(20, 20), fgvc_aircraft=(10, 10), sun397=(20, 10), dtd=(40, 10), eurosat=(20, 60), ucf101=(5, 20),
)  # fmt: skip
PROGRAD = COOP | dict(
    oxford_pets='a type of pet, a photo of a {}.',
    oxford_flowers='a type of flower, a photo of a {}.',
    fgvc_aircraft='a type of aircraft, a photo of a {}.',
    food101='a type of food, a photo of {}.',
    dtd='a texture of {}.',
)
KGCOOP = COOP | dict(dtd='a photo of a {}, a type of texture.')
TCP = dict(  # of frozen CLIP, of the prompt
    imagenet=(PLAIN, PLAIN),
    caltech101=(PLAIN, 'X X X X {}.'),
    oxford_pets=('a photo of a {}, a type of pet.', 'X X X X {}, a type of pet.'),
    stanford_cars=(PLAIN, 'X X X X {}, a type of car'),
    oxford_flowers=('a photo of a {}, a type of flower.', 'X X X X {}, a type of flower.'),
    food101=('a photo of a {}, a type of food.', 'X X X X {}, a type of food.'),
    fgvc_aircraft=('a photo of an aircraft {}.', 'X X X X {}, a type of aircraft.'),
    sun397=(PLAIN, 'X X X X {}.'),
    dtd=('a photo of a {}, a type of texture.', 'X X X X {} texture.'),
    eurosat=('a centered satellite photo of {}.', 'X X X X {}.'),
    ucf101=('a photo of a person doing {}.', 'a photo of a person doing {}.'),
)
TIP = dict(  # scales of beta and alpha, alpha
    imagenet=(7, 3, 1.17), caltech101=(12, 5, 3), oxford_pets=(7, 3, 1.17), stanford_cars=(20, 10, 3),
    oxford_flowers=(50, 50, 10), food101=(10, 10, 1.17), fgvc_aircraft=(30, 30, 5), sun397=(12, 10, 1.17),
    dtd=(13, 13, 2), eurosat=(12, 10, 2), ucf101=(7, 3, 3),
)  # fmt: skip
APE = dict(  # scales, alpha, channels of APE and APE-T, weights, eps, rate, epochs
    imagenet=((7, 7, 0.5), 2, 500, 500, (0.7, 0.3), 1e-3, 1e-4, 20),
    caltech101=((7, 7, 1), 1, 800, 900, (0.5, 0.5), 1e-3, 1e-3, 30),
    dtd=((7, 7, 1), 3, 400, 700, (0.5, 0.5), 1e-3, 1e-3, 20),
    eurosat=((30, 5, 1.5), 1, 700, 900, (0.9, 0.1), 1e-3, 1e-3, 200),
    fgvc_aircraft=((20, 10, 1), 5, 800, 900, (0.1, 0.9), 1e-3, 1e-3, 30),
    food101=((7, 7, 1), 0.8, 700, 900, (0.3, 0.7), 1e-3, 1e-4, 30),
    oxford_flowers=((7, 7, 1), 3, 700, 800, (0.4, 0.6), 1e-3, 1e-3, 60),
    oxford_pets=((7, 7, 1), 2, 800, 800, (0.7, 0.3), 2e-3, 1e-4, 30),
    stanford_cars=((10, 7, 1), 1, 500, 800, (0.6, 0.4), 5e-3, 1e-3, 30),
    sun397=((10, 7, 1), 1, 800, 800, (0.7, 0.3), 1e-3, 1e-4, 30),
    ucf101=((10, 7, 1.5), 2, 700, 800, (0.3, 0.7), 2e-3, 1e-3, 30),
)
TDA = dict(  # alpha, beta
    imagenet=(2, 5), caltech101=(5, 5), dtd=(2, 3), eurosat=(4, 8), fgvc_aircraft=(2, 2), food101=(1, 1),
    oxford_flowers=(1, 5), oxford_pets=(2, 7), stanford_cars=(1, 7), sun397=(2, 3), ucf101=(3, 8),
)  # fmt: skip
MEMBERS = {'model.text_prompt.num_members': 16, 'train_dataloader.dataset.top_k': 16}
SUBPT = {1: (10, 5), 2: (20, 10), 4: (30, 10), 8: (40, 10), 16: (50, 10)}  # epochs of CoOp, directions
FEW, SIXTEEN = 'few-shot', ('base-to-new', 16)


def coop_epochs(dataset: str, shots: int) -> int:
    return 50 if dataset == 'imagenet' or shots == 1 else 100 if shots in (2, 4) else 200


def sgd(epochs: int, batch: int, rate: float, switches: dict | None = None, **more) -> dict:
    """CoOp's kind of training: an epoch leaves out the images that do not fill the last batch."""
    own = {'train_dataloader.batch_sampler.type': 'vlm_dense.FullBatchSampler', **(switches or {})}
    return dict(training=(epochs, 'epochs', batch, rate), warm_up={'all': ONE_EPOCH}, switches=own) | more


def ensemble(dataset: str, name: str = SEVEN) -> dict:
    """ImageNet's list of sentences, the set's sentence elsewhere."""
    return {TEMPLATES: [name if dataset == 'imagenet' else COOP[dataset]]}


def facts(method: str, dataset: str, protocol: str, shots: int) -> dict | None:
    """See above; ``None`` where nothing is published."""
    known = FACTS.get(method.removesuffix('_on-test').replace('upl_star', 'upl'))
    return None if known is None else known(dataset, protocol, shots)


def zero_shot(dataset, protocol, shots):
    return dict(training=None, sentences=ensemble(dataset, EIGHTY))


def cupl(dataset, protocol, shots):
    if protocol == FEW and dataset != 'eurosat':
        return dict(training=None, sentences={'model.text_prompt.sentences': [f'data/cupl/{dataset}.json']})


def vcd(dataset, protocol, shots):
    if protocol == FEW and dataset in ('imagenet', 'dtd', 'eurosat', 'food101', 'oxford_pets'):
        first = dataset == 'imagenet'
        return dict(
            training=None,
            sentences={'model.text_prompt.after': ['.' if first else '']},
            switches={'model.text_prompt.by_order': first},
        )


def coop(dataset, protocol, shots):
    if protocol == FEW:
        vectors = {'model.text_prompt.num_contexts': ['16 learned vectors']}
        return sgd(coop_epochs(dataset, shots), 32, 2e-3, sentences=vectors)


def cocoop(dataset, protocol, shots):
    if (protocol, shots) == SIXTEEN:
        return sgd(10, 1, 2e-3, sentences=WORDS)


def kgcoop(dataset, protocol, shots):
    if (protocol, shots) == SIXTEEN:
        sentences, weight = WORDS | {TEMPLATE: [KGCOOP[dataset]]}, {'model.text_prompt.weight': 8.0}
        return sgd(100, 128, 2e-3, sentences=sentences, switches=weight)


def prograd(dataset, protocol, shots):
    if protocol == FEW or (protocol, shots) == ('base-to-new', 4):
        weak = shots in (8, 16) and dataset in ('oxford_flowers', 'dtd', 'eurosat')
        strength = {'model.text_prompt.strength': 0.8 if weak else 1.0, 'model.text_prompt.num_contexts': 16}
        own = dict(sentences={TEMPLATE: [PROGRAD[dataset]]}, switches=strength)
        return sgd(coop_epochs(dataset, shots), 32, 2e-3, **own)


def tcp(dataset, protocol, shots):
    if (protocol, shots) in (SIXTEEN, (FEW, 4)):
        frozen, learned = TCP[dataset]
        sentences = {TEMPLATE: [frozen], 'model.text_prompt.prompt_template': [learned]}
        own = {'model.text_prompt.weight': 8.0, 'optim_wrapper.optimizer.eps': 1e-3}
        return sgd(25 if dataset in ('imagenet', 'sun397') else 50, 32, 2e-3, sentences=sentences, switches=own)


def lasp(dataset, protocol, shots):
    if (protocol, shots) != SIXTEEN or dataset == 'imagenet':
        return None
    far = dataset in ('caltech101', 'dtd', 'ucf101')
    epochs, batch, rate, warm = 25, 32, 0.032, 3
    if far:
        epochs, warm = 50, 5
    if dataset == 'eurosat':
        epochs, warm = 300, 7
    if dataset == 'food101':
        epochs, batch, rate, warm = 10, 1, 2e-3, 1
    warm_up = dict.fromkeys(('all', 'backbone'), f'{warm} epochs at 1e-05')
    names = {'model.text_prompt.whole_set.name': dataset}  # those of new classes too
    own = dict(sentences=WORDS, switches=names | {'model.text_prompt.weight': 10.0 if far else 5.0})
    return sgd(epochs, batch, rate, **own) | dict(warm_up=warm_up, rates={'backbone': rate / 10})


def plot(dataset, protocol, shots):
    if protocol == FEW:
        own = {'model.text_prompt.num_prompts': 4, 'model.text_prompt.num_contexts': 16}
        return sgd(50, 128, 2e-3, switches=own | {'model.text_prompt.global_term': dataset == 'imagenet'})


def subpt(dataset, protocol, shots):
    if protocol == FEW or (protocol, shots) == ('base-to-new', 4):
        early, rank = SUBPT[shots]
        own = {'default_hooks.subspace.early': early, 'default_hooks.subspace.rank': rank}
        own |= {'model.text_prompt.weight': 1.0, 'model.text_prompt.num_contexts': 16}
        if protocol == FEW:
            own |= {
                'model.text_prompt.novel_names.0': 'pickup truck',
                'model.text_prompt.novel_names.99': 'Norwich Terrier',
            }
        else:
            own |= {'model.text_prompt.novel_set.name': dataset, 'model.text_prompt.novel_set.classes': 'new'}
        return sgd(early + coop_epochs(dataset, shots), 32, 2e-3, sentences={TEMPLATE: [EIGHTY]}, switches=own)


def vpt_variational(dataset, protocol, shots):
    if (protocol, shots) == SIXTEEN:
        samples, epochs = VARIATIONAL[dataset]
        return sgd(epochs, 1, 2e-3, sentences=WORDS, switches={'model.text_prompt.num_samples': samples})


def upl(dataset, protocol, shots):
    if (protocol, shots) == (FEW, 16):
        labels = {f'train_dataloader.dataset.labellers.0.{TEMPLATES}': [COOP[dataset]]}
        return sgd(50, 32, 2e-3, sentences=labels, switches=MEMBERS)


def taskres(dataset, protocol, shots):
    if protocol == FEW:
        rate = 2e-4 if dataset == 'imagenet' else 2e-3
        scale = {'model.text_prompt.scale': 1.0 if dataset == 'oxford_flowers' else 0.5}
        sentences = ensemble(dataset, 'imagenet8: 8 sentences')
        own = dict(sentences=sentences, switches=scale | {'optim_wrapper.optimizer.type': 'Adam'})
        return sgd(200 if shots in (8, 16) else 100, 256, rate, **own)


def of_maple(rate: float, epochs: int = 5, sentences: dict = WORDS, **switches):
    def known(dataset, protocol, shots):
        if (protocol, shots) == SIXTEEN:
            return sgd(epochs, 4, rate, sentences=sentences, switches=switches)

    return known


def promptsrc(dataset, protocol, shots):
    if protocol == FEW:
        far = dataset in ('stanford_cars', 'oxford_flowers', 'fgvc_aircraft', 'dtd', 'eurosat')
        epochs, mean, std = (50, 45, 5) if far else (50, 30, 30)
    elif shots == 16:
        epochs, mean, std = 20, 15, 1
    else:
        return None
    own = {'default_hooks.average.mean': mean, 'default_hooks.average.std': std, 'model.text_prompt.depth': 9}
    return sgd(epochs, 4, 2.5e-3, sentences=WORDS | {TEMPLATES: ['promptsrc: 60 sentences']}, switches=own)


def upt(dataset, protocol, shots):
    if protocol == FEW or shots == 16:
        epochs = coop_epochs(dataset, shots)
        if protocol == 'base-to-new' and dataset == 'caltech101':
            epochs = 10
        return sgd(epochs, 32, 2e-3, switches={'model.text_prompt.num_contexts': 4})


def mvlpt(dataset, protocol, shots):
    if protocol == FEW and shots in (1, 5, 20):
        return sgd(200, 32, 2e-3, switches={'model.text_prompt.project_dim': 128})


def cavpt(dataset, protocol, shots):
    if protocol == FEW:
        warm = {'all': f'{1 if dataset == "imagenet" else 10} epochs at 1e-05', 'text_prompt.ctx': ONE_EPOCH}
        own = {'model.loss.alpha': 0.3, 'model.loss.guided_epochs': 30, 'model.text_prompt.likely': 10}
        own = dict(sentences={TEMPLATE: [COOP[dataset]]}, switches=own)
        return sgd(60 if shots == 1 else 100, 32, 0.01, **own) | dict(warm_up=warm, rates={'text_prompt.ctx': 2e-3})


def clip_adapter(dataset, protocol, shots):
    if protocol == FEW:
        own = {'model.head.ratio': 0.2, 'model.head.reduction': 4}
        return sgd(200, 32, 2e-3, sentences={TEMPLATES: [COOP[dataset]]}, switches=own)


def cached(dataset: str) -> dict:
    scale_b, scale_a, alpha = TIP[dataset]
    own = {'model.head.alpha': alpha, 'model.head.beta': 1.0, 'model.head.search_scale': [scale_b, scale_a]}
    return dict(sentences=ensemble(dataset), switches=own | {'model.head.search_step': [200, 20]})


def tip_adapter(dataset, protocol, shots):
    if protocol == FEW:
        return dict(training=None) | cached(dataset)


def tip_adapter_f(dataset, protocol, shots):
    if protocol == FEW:
        training = (100 if dataset == 'eurosat' else 20, 'epochs', 256, 1e-3)
        found = cached(dataset)
        found['switches'] |= {'train_dataloader.batch_sampler': None}
        return found | dict(training=training, warm_up={'all': 'none'})


def ape(dataset, protocol, shots):
    if protocol == FEW:
        scale, alpha, channels, _, weights, *_ = APE[dataset]
        own = {'alpha': alpha, 'channels': channels, 'weights': list(weights), 'search_scale': list(scale)}
        return dict(training=None, sentences=ensemble(dataset), switches={f'model.head.{k}': v for k, v in own.items()})


def ape_t(dataset, protocol, shots):
    if protocol == FEW:
        scale, alpha, _, channels, _, eps, rate, epochs = APE[dataset]
        eps = 1e-2 if dataset == 'food101' and shots in (1, 2) else eps
        own = {'model.head.alpha': alpha, 'model.head.channels': channels, 'optim_wrapper.optimizer.eps': eps}
        own |= {'model.head.search_scale': list(scale[:2]), 'train_dataloader.batch_sampler': None}
        return dict(training=(epochs, 'epochs', 256, rate), warm_up={'all': 'none'}, switches=own)


def with_seven(**switches):
    def known(dataset, protocol, shots):
        if protocol == FEW:
            return dict(training=None, sentences=ensemble(dataset), switches=switches)

    return known


def linear_probe(dataset, protocol, shots):
    if protocol == FEW:
        return dict(training=None, switches={'model.head.solver': 'sklearn'})


def clip_lora(dataset, protocol, shots):
    if protocol == FEW:
        own = {'model.text_prompt.rank': 2, 'model.text_prompt.dropout': 0.25}
        own |= {'optim_wrapper.optimizer.weight_decay': 1e-2, 'param_scheduler.0.eta_min': 1e-6}
        training = (500 * shots, 'iterations', 32, 2e-4)
        return dict(training=training, warm_up={'all': 'none'}, sentences={TEMPLATES: [PLAIN]}, switches=own)


def tpt(dataset, protocol, shots):
    if protocol == FEW:
        views = {VIEWS: 64} if dataset == 'imagenet' else {VIEWS: 64, MIX: True}
        return dict(training=None, sentences=WORDS, switches=views | {'model.test_time.selection': 0.1})


def tda(dataset, protocol, shots):
    if protocol == FEW:
        alpha, beta = TDA[dataset]
        sentence = SEVEN if dataset in ('imagenet', 'caltech101') else COOP[dataset]
        own = {'model.test_time.positive.alpha': alpha, 'model.test_time.positive.beta': beta}
        own |= {'model.test_time.negative.alpha': 0.117}
        return dict(training=None, sentences={TEMPLATES: [sentence]}, switches=own)


def zero_tta(dataset, protocol, shots):
    if protocol == FEW:
        own = {'model.test_time.selection': 0.3, VIEWS: 64}
        return dict(training=None, sentences={TEMPLATES: [PLAIN]}, switches=own)


PLAIN_TEXT = {TEMPLATES: [PLAIN]}
FACTS = dict(
    zero_shot=zero_shot,
    cupl=cupl,
    vcd=vcd,
    coop=coop,
    cocoop=cocoop,
    kgcoop=kgcoop,
    prograd=prograd,
    tcp=tcp,
    lasp=lasp,
    plot=plot,
    subpt=subpt,
    vpt_variational=vpt_variational,
    upl=upl,
    taskres=taskres,
    maple=of_maple(3.5e-3, **{'model.text_prompt.depth': 9, 'model.text_prompt.num_contexts': 2}),
    ivlp=of_maple(3.5e-3, **{'model.text_prompt.depth': 12}),
    deep_text=of_maple(2.5e-3, **{'model.text_prompt.depth': 12}),
    vpt=of_maple(2.5e-3, sentences=PLAIN_TEXT, **{'model.image_prompt.depth': 1}),
    vpt_deep=of_maple(2.5e-3, sentences=PLAIN_TEXT, **{'model.image_prompt.depth': 12}),
    promptsrc=promptsrc,
    upt=upt,
    mvlpt=mvlpt,
    cavpt=cavpt,
    clip_adapter=clip_adapter,
    tip_adapter=tip_adapter,
    tip_adapter_f=tip_adapter_f,
    ape=ape,
    ape_t=ape_t,
    calip=with_seven(**{'model.head.search_step': [200, 200]}),
    lp_plus_plus=with_seven(**{'model.head.epochs': 300, 'model.head.alpha_every': 10}),
    gda_clip=with_seven(**{'model.head.passes': 10}),
    linear_probe=linear_probe,
    clip_lora=clip_lora,
    tpt=tpt,
    tda=tda,
    zero_tta=zero_tta,
)
"""Absent are methods of which nothing is published on these sets, or that are reconstructions: VT-CLIP, RePrompt, VP
(whole sets), WiSE-FT (ImageNet and its variants)."""
