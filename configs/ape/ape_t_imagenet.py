# APE-T on ImageNet, 16 shots, RN50. Epoch, alpha and beta are chosen on validation images, where the official code
# takes the test images; it also augments again in each epoch.
#   python tools/train.py configs/ape/ape_t_imagenet.py
_base_ = ['./ape_imagenet.py', '../_base_/schedules/ape_t_20e.py']

model = dict(
    head=dict(
        _delete_=True,
        type='vlm_dense.APET',
        shots=16,
        passes=10,
        channels=500,
        weights=(0.2, 0.8),
        alpha=2.0,
        beta=1.0,
        search_scale=(7, 7),
        search_step=(200, 20),
    )
)
default_hooks = dict(checkpoint=dict(save_best='top1', rule='greater'))

# what the authors change elsewhere, for tools/compare.py: they search on all validation images, which ImageNet has not
recipes = {
    '_delete_': True,
    'search': dict(sets='others', options={'default_hooks.prepare.data.search.dataset.dataset.shots': None}),
    **{
        name: dict(
            sets=[name],
            length=epochs,
            options={
                'model.head.alpha': alpha,
                'model.head.channels': channels,
                'model.head.search_scale': scale,
                'optim_wrapper.optimizer.eps': eps,
                'optim_wrapper.optimizer.lr': lr,
            },
        )
        for name, alpha, channels, scale, eps, lr, epochs in (
            ('caltech101', 1.0, 900, (7, 7), 1e-3, 1e-3, 30),
            ('dtd', 3.0, 700, (7, 7), 1e-3, 1e-3, 20),
            ('eurosat', 1.0, 900, (30, 5), 1e-3, 1e-3, 200),
            ('fgvc_aircraft', 5.0, 900, (20, 10), 1e-3, 1e-3, 30),
            ('food101', 0.8, 900, (7, 7), 1e-3, 1e-4, 30),
            ('oxford_flowers', 3.0, 800, (7, 7), 1e-3, 1e-3, 60),
            ('oxford_pets', 2.0, 800, (7, 7), 2e-3, 1e-4, 30),
            ('stanford_cars', 1.0, 800, (10, 7), 5e-3, 1e-3, 30),
            ('sun397', 1.0, 800, (10, 7), 1e-3, 1e-4, 30),
            ('ucf101', 2.0, 800, (10, 7), 2e-3, 1e-3, 30),
        )
    },
    'food101, few': dict(sets=['food101'], shots=[1, 2], options={'optim_wrapper.optimizer.eps': 1e-2}),
}
