"""The words of the built-in models: their own, and ordinary English that means one of them. Standard library only.

A model states which of THINGS it knows. A word that stands in no table here is refused, with the nearest one.
"""

from __future__ import annotations

from typing import NamedTuple


def _words(text: str) -> list[str]:
    return text.split()


class Thing(NamedTuple):
    """What a prompt can say of a thing."""

    body: str  # the word for what has the prompt's colour ("cap" of a mushroom)
    natural: str  # the body's colour where the prompt names none
    parts: tuple[str, ...] = ()  # what else can have a colour


MADE = {  # by a formula: backend/objects/shapes.py
    "ball": Thing("ball", "red", ("stripe",)),
    "cube": Thing("cube", "blue", ("top",)),
    "cone": Thing("cone", "orange", ("stripe", "tip")),
    "donut": Thing("icing", "pink", ("dough", "sprinkles")),
    "mug": Thing("mug", "red", ("handle", "inside")),
    "teapot": Thing("teapot", "blue", ("lid", "knob", "handle", "spout")),
    "bottle": Thing("bottle", "green", ("cap", "label")),
    "bowl": Thing("bowl", "blue", ("inside", "rim", "foot")),
    "chair": Thing("seat", "brown", ("legs", "back")),
    "table": Thing("top", "brown", ("legs",)),
    "lamp": Thing("shade", "yellow", ("base", "pole", "inside")),
    "bed": Thing("blanket", "blue", ("frame", "mattress", "pillow")),
    "car": Thing("car", "red", ("wheels", "hubs", "windows", "roof", "lights", "bumpers", "taillights")),
    "boat": Thing("hull", "red", ("sail", "mast", "deck")),
    "rocket": Thing("rocket", "white", ("nose", "fins", "window", "nozzle", "ring")),
    "house": Thing("walls", "yellow", ("roof", "door", "windows", "frames", "chimney", "knob")),
    "tower": Thing("tower", "grey", ("battlements", "door", "windows", "frame")),
    "tree": Thing("leaves", "green", ("trunk",)),
    "mushroom": Thing("cap", "red", ("stem", "spots", "gills")),
    "cactus": Thing("cactus", "green", ("pot", "soil", "flower", "spines")),
    "duck": Thing("duck", "yellow", ("beak", "eyes", "wings")),
    "fish": Thing("fish", "orange", ("fins", "tail", "stripes", "eyes", "pupils", "mouth")),
    "snowman": Thing("snow", "white", ("hat", "scarf", "nose", "arms", "eyes", "buttons")),
    "robot": Thing(
        "robot", "grey",
        ("arms", "legs", "hands", "feet", "eyes", "pupils", "mouth", "panel", "buttons", "antenna", "ears"),
    ),
}  # fmt: skip
# Known from models of real ones only. A real thing has one part that a prompt can colour, its body; a prompt may
# name the body's material instead.
REAL = {
    word: Thing(word, natural)
    for word, natural in {
        "sofa": "grey", "armchair": "brown", "shelf": "brown", "plant": "green", "bench": "brown", "stool": "brown",
        "vase": "white", "wardrobe": "brown", "desk": "brown", "cabinet": "brown", "truck": "white",
    }.items()
}  # fmt: skip
THINGS = MADE | REAL
OF_MATERIALS = frozenset({*REAL, "chair", "table", "lamp", "bed", "car"})  # of which real ones were shown
COLOURS = (
    "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black", "grey", "white",
)  # fmt: skip
MATERIALS = {
    "wooden": "brown",
    "metal": "grey",
}  # and the colour that stands for it where no material is known
VIEWS = (
    "front", "side", "back", "overhead", "front left", "left", "back left", "back right", "right", "front right",
)  # fmt: skip

_SAME_THING = {
    "ball": "sphere orb globe football basketball bauble marble",
    "cube": "box block dice die crate",
    "cone": "pylon|traffic cone|road cone|traffic pylon",
    "donut": "doughnut torus bagel",
    "mug": "cup tankard beaker stein|coffee mug|coffee cup|tea cup|teacup|tea mug|beer mug",
    "teapot": "kettle|tea pot|coffee pot",
    "bottle": "flask vial|wine bottle|water bottle|beer bottle|glass bottle",
    "chair": "seat throne",
    "lamp": "lantern",
    "car": "automobile sedan taxi",
    "boat": "ship sailboat yacht",
    "rocket": "spaceship spacecraft missile starship|rocket ship|space ship|space rocket",
    "house": "cottage hut cabin home",
    "tower": "castle keep turret",
    "tree": "fir pine oak conifer|christmas tree|pine tree|fir tree|oak tree|apple tree",
    "mushroom": "toadstool fungus fungi champignon|fly agaric",
    "duck": "duckling mallard|rubber duck|rubber ducky|rubber duckie",
    "fish": "goldfish carp",
    "robot": "android droid",
    "sofa": "couch settee",
    "shelf": "bookshelf bookcase",
    "table": "coffee table|dining table",
}
_SAME_COLOUR = {
    "red": "crimson scarlet ruby maroon burgundy cherry vermilion|dark red|deep red|wine red",
    "orange": "amber copper tangerine coral apricot",
    "yellow": "gold golden lemon mustard brass blond blonde",
    "green": "lime olive emerald mint jade|dark green|light green",
    "cyan": "turquoise teal aqua azure|light blue|sky blue|pale blue|baby blue",
    "blue": "navy indigo cobalt sapphire|dark blue|navy blue",
    "purple": "violet lilac lavender mauve plum",
    "pink": "rose magenta fuchsia salmon|light red|pale red|hot pink",
    "brown": "tan chocolate bronze rust rusty chestnut khaki|dark orange|dark yellow",
    "black": "ebony jet charcoal|dark grey|dark gray",
    "grey": "gray silver chrome|light black",
    "white": "ivory cream beige snowy|off white|light grey|light gray",
}
_SAME_MATERIAL = {"wooden": "wood oaken timber", "metal": "metallic steel iron aluminium aluminum"}
# Words that say nothing that such a model could show: they are left out, and the user is told.
_LEFT_OUT = """
    big large huge giant small little tiny mini tall short long wide thin thick fat heavy round square flat low poly
    high shiny glossy matte matt smooth rough soft hard fluffy polished wet dry dusty dirty clean old new ancient
    antique vintage modern classic rustic retro futuristic medieval fancy simple plain basic nice pretty beautiful
    cute lovely cool funny ugly scary happy sad elegant realistic photorealistic realism stylized stylised cartoon
    cartoonish toon
    toy anime pixar lego voxel minimal minimalist detailed detail highly ultra hyper very really extremely quite super
    intricate best quality masterpiece professional award winning studio lighting lit render rendered rendering 3d model
    mesh asset object game ready unreal engine octane blender cycles pbr textured texture hd uhd 4k 8k 16k 2k hdr sharp
    focus trending artstation concept art style styled stylish design designed full whole single one isolated empty
    filled open closed standing sitting floating centered centred symmetrical perfect handmade hand painted out
    rubber plastic ceramic porcelain clay glass leather fabric paper cardboard stone rock marbled concrete crystal
    coffee tea wine beer water christmas traffic garden kitchen pattern patterned colored coloured colorful colourful
    colour color bright dark light pale deep vivid pastel neon glowing
    please make me create generate give i want would like some with my your his her their this that it is its and of
"""
ARTICLES = ("a", "an", "the")
NUMBERS = frozenset(
    _words(
        "two three four five six seven eight nine ten twelve several many couple pair few bunch set group dozen"
    )
)
WITH = ("with", "having", "has", "featuring")
PREPOSITIONS = frozenset(
    _words(
        """on in at under beside near by next behind for over inside against above below between around onto into upon
        from like as holding wearing sitting standing floating lying"""
    )
)
FOREIGN = frozenset(  # articles of other languages
    _words(
        "ein eine einen einem einer der die das den dem mit und un une des el los las una uno il lo gli um uma"
    )
)
NOT = ("without", "not", "no", "never", "except", "minus")
# What a word means, and which of THINGS come nearest to it.
KINDS_OF_THINGS = {
    "vessel": (("mug", "bottle", "teapot", "bowl", "vase"),
               "glass goblet jug pitcher jar pot pan can bucket barrel plate dish basket bin tub cauldron urn chalice"),
    "plant": (("tree", "mushroom", "plant", "cactus"),
              "flower rose bush grass bonsai palm leaf fern tulip shrub branch log wood forest carrot pumpkin"),
    "food": (("donut", "mushroom"),
             "cake bread apple banana fruit burger pizza cookie muffin cupcake sandwich cheese egg pie pear lemon"),
    "animal": (("duck", "fish"),
               "cat dog bird animal chicken goose swan penguin owl horse cow pig sheep rabbit bear lion tiger fox mouse"
               " frog dragon dinosaur elephant corgi puppy kitten monster shark whale turtle bee spider snake wolf"),
    "person": (("robot", "snowman", "duck"),
               "man woman person child boy girl knight soldier wizard king queen astronaut character human head face"),
    "vehicle": (("rocket", "car", "boat", "truck"),
                "plane airplane aeroplane aircraft jet bus train bike bicycle motorbike motorcycle van tank helicopter"
                " submarine ufo scooter tractor wagon cart"),
    "furniture": (("chair", "table", "bed", "sofa", "stool", "bench", "lamp", "shelf", "desk", "cabinet", "wardrobe"),
                  "furniture drawer dresser cupboard nightstand couch recliner crib chest"),
    "building": (("house", "tower"),
                 "building temple church barn bridge skyscraper windmill lighthouse tent wall gate door fence palace"),
    "round thing": (("ball", "donut"),
                    "planet moon earth sun balloon circle ring wheel pearl bead coin disc tyre tire star"),
    "pointed thing": (("cone", "rocket"), "pyramid hat spike horn arrow sword dagger knife axe hammer spear pencil"),
}  # fmt: skip


def _table(*sources: dict[str, str]) -> dict[str, str]:
    """phrase -> word; the source's phrases are single words, and after each | one of several."""
    return {
        phrase: word
        for source in sources
        for word, text in source.items()
        for phrase in [*text.split("|")[0].split(), *text.split("|")[1:]]
    }


THING_WORDS = _table(_SAME_THING) | {word: word for word in THINGS}
COLOUR_WORDS = _table(_SAME_COLOUR) | {word: word for word in COLOURS}
MATERIAL_WORDS = _table(_SAME_MATERIAL) | {word: word for word in MATERIALS}
LEFT_OUT = frozenset(_LEFT_OUT.split())
_OTHERS = {word: (kind, near) for kind, (near, text) in KINDS_OF_THINGS.items() for word in text.split()}
_OWN = {word: (kind, near) for kind, (near, _) in KINDS_OF_THINGS.items() for word in near}
OTHER_THINGS = _OWN | _OTHERS
