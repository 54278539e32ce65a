# 100 of ImageNet's classes, chosen by SubPT's authors: names that a loss may look at without any image of theirs.
# fmt: off
novel_names = [
    'pickup truck', 'acorn', 'lampshade', 'Great Pyrenees dog', 'starfish', 'oxygen mask', 'refrigerator',
    'gyromitra', 'popsicle', 'filing cabinet', 'spiny lobster', 'lifeboat', 'prayer rug', 'printer', 'marimba',
    'television', 'milk can', 'consomme', 'sawmill', 'spotlight', 'chain mail', 'ruler measuring stick', 'cloak',
    'stupa', 'stinkhorn mushroom', 'guinea pig', 'accordion', 'bottle cap', 'basketball', 'website', 'bustard',
    'tree frog', 'dog sled', 'St. Bernard', 'dishcloth', 'digital clock', 'broccoli', 'thimble', 'restaurant',
    'trolleybus', 'hourglass', 'zebra', 'sunscreen', 'viaduct', 'wall clock', 'black stork', 'piggy bank',
    'tile roof', 'American dipper', 'marmot', 'vespa', 'pan flute', 'race car', 'hamper', 'water buffalo',
    'shipwreck', 'bulletproof vest', 'weasel', 'altar', 'carousel', 'Lakeland Terrier', 'mousetrap', 'snorkel',
    'grey whale', 'stopwatch', 'albatross', 'radiator grille', 'tench', 'limpkin', 'Egyptian Mau', 'swimming cap',
    'banjo', 'boathouse', 'ballpoint pen', 'beaker', 'Curly-coated Retriever', 'tractor', 'Otterhound', 'guenon',
    'bucket', 'baguette', 'yellow garden spider', 'plate', 'knee pad', 'Boxer', 'gas pump', 'pug',
    'ruddy turnstone', 'daisy', 'ant', 'red king crab', 'hay', 'American coot', 'smooth green snake', 'baby bib',
    'product packet / packaging', 'crutch', 'totem pole', 'vine snake', 'Norwich Terrier',
]
# fmt: on
