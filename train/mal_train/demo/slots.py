"""Slot values: the names, things, numbers and times that fill a scenario's sentences.

Variety is the point. A tiny model that sees every value a hundred times learns the values; one that sees
thousands of them, many made up on the spot, has to learn to copy from the user's message.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable

SLOT = re.compile(r"\{(a )?([a-z]+)\}")

_GOODS = """
kettle toaster blender lamp chair table desk bookshelf mirror carpet rug curtain cushion blanket pillow mattress
vase teapot mug bowl plate saucepan frying pan wok baking tin cutting board knife block corkscrew ladle sieve
coffee machine coffee grinder rice cooker microwave fridge freezer vacuum cleaner iron ironing board hairdryer
razor toothbrush soap dispenser towel rack bath mat shower head scale thermometer umbrella raincoat jacket coat
jumper cardigan shirt blouse skirt dress suit tie belt scarf hat cap wallet handbag backpack suitcase watch
bracelet necklace ring brooch tent sleeping bag camping stove torch lantern compass rucksack water bottle
picnic basket hammock deckchair parasol barbecue lawnmower rake spade watering can wheelbarrow hose flowerpot
birdhouse bench swing trampoline sledge skateboard scooter helmet bicycle pump football tennis racket yoga mat
dumbbell rowing machine treadmill guitar stand music box radio record player speaker microphone camera tripod
projector monitor keyboard mouse pad webcam printer scanner router tablet e-reader charger power bank desk fan
heater clock alarm clock calendar notebook fountain pen pencil case stapler globe board game chess set puzzle
doll teddy bear toy train kite model plane dartboard easel paint box sewing machine knitting kit drill hammer
screwdriver set ladder toolbox spirit level saw bird feeder dog bed cat tree aquarium cot pram high chair
baby monitor nightlight wardrobe chest of drawers coat stand shoe rack doormat letterbox doorbell smoke alarm
"""
_TWO_WORDS = (
    "frying pan|baking tin|cutting board|knife block|coffee machine|coffee grinder|rice cooker|vacuum cleaner|"
    "ironing board|soap dispenser|towel rack|bath mat|shower head|sleeping bag|camping stove|water bottle|"
    "picnic basket|watering can|bicycle pump|tennis racket|yoga mat|rowing machine|guitar stand|music box|"
    "record player|mouse pad|power bank|desk fan|alarm clock|fountain pen|pencil case|board game|chess set|"
    "teddy bear|toy train|model plane|paint box|sewing machine|knitting kit|screwdriver set|spirit level|"
    "bird feeder|dog bed|cat tree|high chair|baby monitor|chest of drawers|coat stand|shoe rack|smoke alarm"
)


def _words(text: str, joined: str = "") -> tuple[str, ...]:
    """Split a word list, keeping the listed compounds together."""
    text = " ".join(text.split())
    compounds = joined.split("|") if joined else []
    for compound in compounds:
        text = text.replace(compound, compound.replace(" ", "_"))
    return tuple(word.replace("_", " ") for word in text.split())


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(",") if part.strip())


GOODS = _words(_GOODS, _TWO_WORDS)
ADJECTIVES = _words(
    "red blue green yellow black white grey brown orange purple pink golden silver striped spotted checked wooden "
    "metal glass ceramic leather cotton woollen velvet bamboo steel copper plastic small large tiny big tall low "
    "wide narrow round square folding portable foldable antique old vintage modern plain elegant light heavy cheap "
    "expensive handmade painted"
)
NAMES = _words(
    "Anna Ben Clara David Emma Felix Grace Henry Isla Jack Kate Leo Maria Noah Olivia Paul Quentin Rosa Samuel Tina "
    "Umar Vera William Xenia Yusuf Zoe Amir Bella Carlos Diana Elias Fatima George Hannah Ivan Julia Karim Laura "
    "Miguel Nadia Oscar Priya Rafael Sofia Thomas Ursula Victor Wendy Yara Zack Aisha Boris Chloe Dmitri Elena "
    "Farid Greta Hugo Ingrid Jonas Keiko Lars Mei Nils Omar Petra Ravi Sara Tariq Uma Viktor Wanda Ximena Yuki "
    "Alma Bruno Celine Dario Edith Frank Gemma Hassan Iris Jamal Kira Louis Mona Nora Otto Paula Ramon Stella Theo "
    "Ulla Vince Walter Yvonne Zara Agnes Bernard Cora Duncan Esther Flora Gavin Helga Ismail Joan Kenji Lydia "
    "Martin Nina Oliver Pia Robin Simon Tara Vivian Wesley Ada Basil Carmen Dora Ethan Fiona Gustav Hilda"
)
CITIES = _list(
    "London, Paris, Berlin, Madrid, Rome, Vienna, Prague, Lisbon, Dublin, Oslo, Stockholm, Helsinki, Warsaw, Athens, "
    "Zurich, Geneva, Brussels, Hamburg, Munich, Cologne, Leeds, Bristol, Glasgow, Cardiff, York, Bath, Oxford, "
    "Cambridge, Lyon, Nice, Marseille, Milan, Turin, Naples, Porto, Seville, Valencia, Bilbao, Ghent, Bruges, Basel, "
    "Graz, Salzburg, Krakow, Riga, Tallinn, Vilnius, Sofia, Bucharest, Zagreb, Split, Boston, Chicago, Denver, "
    "Seattle, Austin, Dallas, Portland, Toronto, Montreal, Ottawa, Sydney, Perth, Auckland, Tokyo, Osaka, Kyoto, "
    "Seoul, Delhi, Mumbai, Lagos, Nairobi, Cairo, Lima, Bogota, Quito, Cape Town, New York, San Diego, Sheffield"
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
NUMBERS = _words("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen")
_OPEN = frozenset({"item", "name", "petname", "city", "shop", "app", "order", "code"})

#: Share of closed-list slots that training fills with a word of another kind.
STRANGE = 0.35

_STARTS = _words("b br c cl d dr f fl g gr h j k kl l m n p pl qu r s sk st t tr v w y z")
_VOWELS = _words("a e i o u ai ee oo ia ea")
_ENDS = _words("l n r s x m nd lt rk va la no ri dy ko ma to ta ne")
#: English words that the syllables can make and that are no names.
_TAKEN = frozenset(
    {"Her", "Him", "Men", "Man", "Fool", "Fat", "Sex", "Six", "Ten", "Tin", "Was", "Has", "Pin", "Pen", "Van"}
)

_PLAIN: dict[str, tuple[str, ...]] = {
    "contact": _list("emails, calls, messages, letters, phone calls, text messages, questions"),
    "city": CITIES,
    "day": DAYS,
    "month": MONTHS,
    "room": _list(
        "kitchen, bathroom, bedroom, living room, study, attic, hallway, cellar, dining room, guest room, "
        "children's room, home office, laundry room, spare room, basement"
    ),
    "dish": _list(
        "pizza, lasagne, curry, burger, noodle soup, salmon, risotto, paella, falafel wrap, lentil stew, ramen, "
        "vegetable pie, chicken salad, mushroom soup, fish pie, burrito, goulash, tofu bowl, steak, sushi box, "
        "pad thai, moussaka, onion tart, pumpkin soup, bean chilli, spinach quiche, potato gratin, couscous salad"
    ),
    "cake": _list(
        "chocolate cake, lemon cake, carrot cake, cheesecake, apple pie, marble cake, sponge cake, birthday cake, "
        "walnut cake, banana bread, plum tart, fruit cake, almond cake, cherry pie, honey cake, ginger cake, "
        "orange cake, pear tart, coffee cake, coconut cake"
    ),
    "plant": _list(
        "fern, monstera, orchid, cactus, basil plant, rubber plant, spider plant, peace lily, lemon tree, olive tree, "
        "tomato plant, rose bush, yucca, aloe, ivy, palm, begonia, geranium, fig tree, bonsai, lavender bush, azalea, "
        "hydrangea, chilli plant, money tree"
    ),
    "pet": _list("dog, cat, rabbit, hamster, guinea pig, parrot, canary, tortoise, ferret, puppy, kitten, budgie"),
    "instrument": _list(
        "guitar, piano, violin, flute, cello, trumpet, clarinet, saxophone, harp, ukulele, accordion, oboe, "
        "trombone, banjo, recorder, viola, double bass, mandolin, organ"
    ),
    "subject": _list(
        "chemistry, biology, physics, maths, history, geography, statistics, law, anatomy, economics, accounting, "
        "algebra, Latin, French, philosophy, psychology, literature, programming, art history, music theory"
    ),
    "job": _list(
        "nurse, teacher, cook, waiter, driver, gardener, librarian, accountant, designer, engineer, electrician, "
        "carpenter, baker, hairdresser, translator, programmer, journalist, pharmacist, receptionist, tailor, "
        "mechanic, photographer, optician, architect, editor, assistant, florist, plumber, lab technician, tour guide"
    ),
    "relation": _list(
        "cousin, colleague, flatmate, neighbour, best friend, classmate, old friend, godchild, school friend, "
        "teammate, pen friend, study partner, roommate"
    ),
    "device": _list(
        "laptop, computer, tablet, notebook, work laptop, old laptop, gaming laptop, desktop computer, new computer, "
        "office computer, netbook, school laptop"
    ),
    "phone": _list("phone, mobile, smartphone, new phone, work phone, old phone, tablet, company phone"),
    "clothes": _list(
        "shirt, white shirt, silk dress, jacket, wool jumper, coat, linen suit, skirt, blouse, scarf, evening gown, "
        "cashmere cardigan, tie, velvet jacket, cotton dress, raincoat, waistcoat, yellow top, grey hoodie"
    ),
    "drink": _list(
        "coffee, red wine, tomato juice, tea, cocoa, orange juice, beetroot soup, grape juice, cola, soy sauce, "
        "cherry juice, green tea, curry sauce, mulled wine"
    ),
    "food": _list(
        "broccoli, rice, pasta, porridge, spinach, peas, lentils, yoghurt, carrots, soup, potatoes, cauliflower, "
        "courgette, beans, mashed potato, pumpkin, noodles, fruit salad, scrambled egg, sweetcorn"
    ),
    "language": _list(
        "French, Spanish, German, Italian, Polish, Dutch, Swedish, Finnish, Greek, Turkish, Arabic, Japanese, Korean, "
        "Hindi, Portuguese, Danish, Czech, Hungarian, Norwegian, Welsh, Russian, Swahili"
    ),
    "project": _list(
        "essay, thesis, report, term paper, history essay, biology report, business plan, application, novel, "
        "tax return, lab report, master's thesis, school project, research paper, travel report, book review, "
        "photo project, market study, garden plan, short story"
    ),
    "bag": _list(
        "suitcase, backpack, red suitcase, travel bag, blue suitcase, rucksack, black bag, garment bag, trolley case, "
        "leather bag, green backpack, sports bag, guitar case, pram, holdall"
    ),
    "sofa": _list("sofa, wardrobe, bookshelf, bed, piano, dining table, desk, armchair, cupboard, fridge, sideboard"),
    "bike": _list(
        "bicycle, bike, mountain bike, racing bike, cargo bike, e-bike, city bike, folding bike, tandem, red bike, "
        "old bike, touring bike"
    ),
    "car": _list(
        "car, van, old car, estate car, small car, camper van, pickup, electric car, company car, red car, hatchback"
    ),
    "ordinal": _list("second, third, fourth, fifth, sixth, seventh, eighth, ninth, top"),
}

_NOUNS = GOODS + tuple(
    word for kind in ("dish", "plant", "pet", "instrument", "device", "clothes", "food", "bag") for word in _PLAIN[kind]
)


#: What a message can be about: things that an edit must not exchange for others.
PRODUCTS = frozenset(GOODS).union(
    *(
        _PLAIN[kind]
        for kind in ("dish", "cake", "plant", "pet", "instrument", "device", "phone", "clothes", "food", "bag", "bike")
    )
)


def made_up(rng: random.Random) -> str:
    """A pronounceable name nobody has heard of."""
    word = ""
    for _ in range(rng.choice((1, 2, 2))):
        word += rng.choice(_STARTS) + rng.choice(_VOWELS)
    name = (word + rng.choice(_ENDS)).capitalize()
    return name if name not in _TAKEN else name + "o"


def _number(rng: random.Random, low: int, high: int) -> str:
    value = rng.randint(low, high)
    return NUMBERS[value] if value < len(NUMBERS) and rng.random() < 0.5 else str(value)


def _item(rng: random.Random) -> str:
    noun = rng.choice(GOODS)
    chance = rng.random()
    if chance < 0.25:
        return noun
    if chance < 0.4:
        return f"{made_up(rng)} {noun}"
    return f"{rng.choice(ADJECTIVES)} {noun}"


def _parcel(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(("parcel", "package", "order", "delivery", "parcel", "shipment"))
    return rng.choice(("new ", "", "birthday ", "")) + rng.choice(GOODS)


def _name(rng: random.Random) -> str:
    return rng.choice(NAMES) if rng.random() < 0.6 else made_up(rng)


def _shop(rng: random.Random) -> str:
    name = made_up(rng)
    return rng.choice((name, name, f"{name} & Co", f"{name} Direct", f"{rng.choice(NAMES)} & {name}", f"{name} House"))


def _app(rng: random.Random) -> str:
    name = made_up(rng)
    return rng.choice((name, name, name + rng.choice(("Mail", "Pay", "Box", "Cloud", "Play", "Bank"))))


def _order(rng: random.Random) -> str:
    letter, digits = rng.choice("ABCDEFGHKLMNPRSTVWXZ"), rng.randint(1000, 99999)
    return rng.choice((f"{letter}-{digits}", f"{letter}{digits}", str(digits), f"{letter}{letter}-{digits}"))


def _price(rng: random.Random) -> str:
    whole = rng.choice((rng.randint(5, 99), rng.randint(100, 990)))
    cents = rng.choice((".50", ".90", ".99", ".20", f".{rng.randint(10, 99)}"))
    return rng.choice((f"{whole} euros", f"{whole} pounds", f"{whole} dollars", f"${whole}{cents}", f"${whole}"))


def _duration(rng: random.Random) -> str:
    unit = rng.choice(("day", "day", "week", "week", "month"))
    if rng.random() < 0.25:
        return f"a {unit}" if unit != "day" else "a fortnight"
    high = {"day": 20, "week": 9, "month": 7}[unit]
    return f"{_number(rng, 2, high)} {unit}s"


def _clock(rng: random.Random, hours: tuple[int, ...], half: str) -> str:
    hour = rng.choice(hours)
    return rng.choice((f"{hour} {half}", f"{hour}:{rng.choice(('15', '30', '45', '05', '20', '50'))} {half}"))


def _time(rng: random.Random) -> str:
    return _clock(rng, *rng.choice((((8, 9, 10, 11), "am"), ((1, 2, 3, 4, 5, 6, 7, 8), "pm"))))


_MADE: dict[str, Callable[[random.Random], str]] = {
    "item": _item,
    "parcel": _parcel,
    "name": _name,
    "petname": _name,
    "shop": _shop,
    "app": _app,
    "order": _order,
    "code": lambda rng: f"{rng.choice('EFHX')}{rng.randint(1, 99)}",
    "price": _price,
    "dur": _duration,
    "days": lambda rng: f"{_number(rng, 2, 16)} days",
    "mins": lambda rng: f"{rng.randint(2, 19) * 5} minutes",
    "time": _time,
    "wake": lambda rng: _clock(rng, (5, 6, 7, 8), "am"),
    "evening": lambda rng: _clock(rng, (6, 7, 8, 9, 10), "pm"),
    "night": lambda rng: _clock(rng, *rng.choice((((10, 11), "pm"), ((1, 2, 3, 4), "am")))),
    "n": lambda rng: _number(rng, 3, 16),
    "few": lambda rng: _number(rng, 3, 9),
    "big": lambda rng: str(rng.randint(17, 260)),
    "km": lambda rng: _number(rng, 3, 25),
    "degrees": lambda rng: str(rng.randint(15, 24) * 10),
}
_SAME = {"rent": "price", "debt": "price", "foodcost": "price", "bill": "price", "fine": "price", "fee": "price"}


def kind_of(slot: str) -> str:
    """The kind behind a slot name: ``dayb`` is a second ``day``, ``debt`` is a price."""
    slot = _SAME.get(slot, slot)
    return slot if slot in _MADE or slot in _PLAIN else slot[:-1]


def _draw(rng: random.Random, kind: str) -> str:
    return _MADE[kind](rng) if kind in _MADE else rng.choice(_PLAIN[kind])


def _strange(rng: random.Random, kind: str) -> str:
    """A word in the place of one from a closed list: whoever knows the list must still look back for the word.

    A small model otherwise learns which few plants or pets there are and guesses among them.
    """
    word = made_up(rng)
    if kind in ("day", "month"):
        return word
    if kind == "contact":
        return f"{word.lower()}s"
    other = rng.choice(_NOUNS)
    return rng.choice((word.lower(), f"{word} {other}", other, f"{rng.choice(ADJECTIVES)} {other}"))


def is_withheld(value: str) -> bool:
    """Whether a value belongs to the held-out tenth (decided by the value itself, so it needs no list)."""
    return zlib.crc32(value.lower().encode()) % 10 == 0


def draw(rng: random.Random, slot: str, taken: frozenset[str] = frozenset(), withheld: bool = False) -> str:
    """A value for ``slot`` unlike any in ``taken``; open kinds come from the training or the held-out share."""
    kind = kind_of(slot)
    if not withheld and kind in _PLAIN and kind not in _OPEN and rng.random() < STRANGE:
        return _strange(rng, kind)
    value = _draw(rng, kind)
    for _ in range(60):
        if value not in taken and (kind not in _OPEN or is_withheld(value) == withheld):
            break
        value = _draw(rng, kind)
    return value


def article(word: str) -> str:
    """``a`` or ``an``, by the sound the word begins with."""
    return "an" if word[:1].lower() in "aeiou" or word[:4].lower() in ("hour", "hono") else "a"


def fill(template: str, slots: dict[str, str]) -> str:
    """Put slot values into ``{slot}`` and ``{a slot}``; an absent slot is an error."""

    def value(match: re.Match[str]) -> str:
        text = slots[match.group(2)]
        return f"{article(text)} {text}" if match.group(1) else text

    return SLOT.sub(value, template)


def slots_in(template: str) -> list[str]:
    """The slot names in a template, in order, each once."""
    return list(dict.fromkeys(match.group(2) for match in SLOT.finditer(template)))
