"""Free cases: problems and advice put together word by word, so that nothing but the conversation tells them.

The scenarios hold some six hundred pieces of advice. A small model learns them by heart and then writes what it knows
in place of what it read. Free cases cannot be known: their sentences are grammatical and mostly senseless, every one
is new, and an editor that keeps them has to copy. Only training sees them.
"""

from __future__ import annotations

import functools
import random
import re
from dataclasses import replace
from typing import Any

from . import scenarios
from .scenarios import Case, Scenario, read_message, training
from .slots import ADJECTIVES, GOODS, article, draw, fill, made_up, slots_in
from .vague import with_vague
from .writing import Plan, can_choose, keep, make_bare

#: Share of training answers whose problem and advice no other row has.
FREE = 0.5
#: Share of answers with remarks and leads, and in free cases advice, in words that do not belong together.
WILD = 0.55
#: Share of other answers without remarks around the advice, as short answers are.
BARE = 0.3

#: Words by which an oracle would take a wild phrase for something else.
_TELLING = frozenset(
    re.findall(
        r"\w+",
        """
        please thank thanks kindly some someone something somewhere somehow sorry cannot can not unable able know do don
        you am first then next after finally last begin thing things matter person sum service firm language animal to
        it is be sort kind of less or more object certain enterprise amount and I if that this are was were has have had
        """,
    )
)
#: Verbs whose past tense and participle are the same; after a slash where they are not regular.
_VERBS = """
clean open close mend paint move wash fold label check measure weigh photograph borrow return replace repair polish
dust lift carry/carried store hide/hid unpack pack rinse dry/dried warm cool cover empty/emptied fill sort count mark
glue nail sand oil charge unplug/unplugged reset/reset test inspect compare describe sketch print scan/scanned
copy/copied order reserve cancel/cancelled collect deliver post donate insure register report rent book buy/bought
sell/sold find/found lend/lent send/sent keep/kept leave/left bring/brought hold/held build/built bend/bent sweep/swept
lose/lost heat soak brush comb boil peel mix whisk roast trim/trimmed water plant prune feed/fed lock bolt hang/hung
pin/pinned tape stack roll twist press iron stretch shorten widen loosen tighten put_away/put_away hand_in/handed_in
look_up/looked_up turn_off/turned_off turn_round/turned_round wrap/wrapped air drain melt cut/cut slice salt sign seal
stamp upload download delete rename mute pause record film praise blame thank ignore visit invite call watch
"""

_MESSAGES = (
    "<My {item} was {did} by {name}>.",
    "<{name} has {did} my {item}>.",
    "<{name} wants to {verb} my {item} on {day}>.",
    "<I cannot {verb} my {item}>.",
    "<I cannot {verb} the {item} from {shop}>.",
    "<I forgot to {verb} the {item} of my {relation} {name}>.",
    "<The {item} from {shop} cannot be {did}>.",
    "<My {item} fell on the {itemb} in the {room}>.",
    "<The {item} we {did} in {city} is gone>.",
    "<Somebody has {did} the {item} in our {room}>.",
    "<My {item} has been stuck in the {room} for {dur}>.",
    "<Our {item} smells of {food} and my {relation} refuses to {verb} it>.",
    "<I {did} the wrong {item} at {shop}>.",
    "<There is {a itemb} under my {item}>.",
    "<{shop} wants {price} for {a item}>.",
    "<I lent my {item} to {name} {dur} ago> and <it has not come back>.",
    "<The {item} makes a noise until {night}>.",
    "<My {relation} says that I never {did} the {item}>.",
    "<We cannot agree on who should {verb} the {item}>.",
    "<I have not {did} my {item} since {month}>.",
    "I want to {verb} the {item} before {day} but <the {itemb} is missing>.",
    "<Mr {name} and I argued about the {item}>.",
    "<My {item} turned up in {city} without the {itemb}>.",
    "<Our neighbour Mrs {name} has {did} the {item}>.",
    "<I have {did} the {item} and {relation} {name} is upset>.",
    "<{name} sent me {a item} that nobody can {verb}>.",
    "<My {item} costs {price} and I have no {itemb}>.",
    "On {day} <my {item} was {did}> and <nobody told me>.",
    "<The {item} does not fit into the {room}>.",
    "<I am afraid of the {item} in the {room}>.",
    "I have to {verb} {a item} in {dur} and <I do not know where the {itemb} is>.",
    "<My {relation} {name} has moved to {city} with our {item}>.",
    "<The man from {shop} {did} my {item} at {time}>.",
    "<I was told to {verb} the {item} by {month}>.",
    "<My {device} shows {code} whenever I {verb} {a item}>.",
    "<I paid {price} for {a item} that I cannot {verb}>.",
    "<{app} has lost the picture of my {item}>.",
    "<I cannot open {app} since I {did} the {item}>.",
    "<My {pet} has {did} the {item}>.",
    "<Our {pet} {petname} hides behind the {item}>.",
    "I have to {verb} the {item} and <my {pet} is in the way>.",
    "<I have to explain the {item} in {language} on {day}>.",
    "<The letter about my {item} is in {language}>.",
)
_DETAILS = (
    "It cost {price}.",
    "The number on it is {order}.",
    "{name} comes at {time}.",
    "It has been like that for {dur}.",
    "I need it by {day}.",
    "My {relation} lives in {city}.",
    "The {itemb} is in the {room}.",
    "We talked to {shop} in {month}.",
    "It happened at {time}.",
)
_FEELINGS = """
that is a hard thing to carry
nobody likes to be in that place
it is tiring when a plan falls apart
that must have been a strange moment
such a thing can spoil a whole day
it hurts when that happens
that would upset anyone
it is annoying when nothing moves
you had every reason to expect better
it is no wonder that this bothers you
a worry like that is hard to put down
that is more than one needs in a week
""".strip().splitlines()
_LIMITS = """
I cannot see it from here, so I can only give general advice.
I do not know the people involved, so weigh this against what you know.
I cannot judge this from a few lines, so take it as a first idea.
I do not know what was agreed, so my advice may not fit.
I cannot look it up, so check this with those who know it.
I am unable to test any of this, so go slowly.
I do not know how old it is, so somebody on the spot should decide.
I cannot know what happened before, so there may be a better way.
I am not able to reach anybody for you, so the calls are yours to make.
I don't know the rules where you live, so ask before you begin.
""".strip().splitlines()
_JOKES = """
at least nobody asked you to juggle it
it would make a fine scene in a silent film
even the cat would look surprised
one day it will be a good story at a party
museums have shown stranger things
it seems to have plans of its own
a circus would pay for that number
the furniture has clearly held a meeting
that is one way of staying awake
gravity sends its regards
""".strip().splitlines()


def _past(verb: str) -> str:
    return verb + ("d" if verb.endswith("e") else "ed")


#: (infinitive, past) of each verb.
VERBS = tuple(
    (verb.replace("_", " "), (past or _past(verb)).replace("_", " "))
    for verb, _, past in (word.partition("/") for word in _VERBS.split())
)


def _verb(rng: random.Random) -> tuple[str, str]:
    """An infinitive and its past; one in eight exists nowhere else."""
    if rng.random() < 0.12:
        word = made_up(rng).lower()
        return word, _past(word)
    return rng.choice(VERBS)


def _thing(rng: random.Random) -> str:
    noun = rng.choice(GOODS) if rng.random() < 0.8 else made_up(rng).lower()
    chance = rng.random()
    if chance < 0.1:
        return f"{made_up(rng).lower()} {noun}"
    return f"{rng.choice(ADJECTIVES)} {noun}" if chance < 0.5 else noun


def _adjunct(rng: random.Random) -> str:
    """When, where or how; often nothing."""
    if rng.random() < 0.45:
        return ""
    thing = _thing(rng)
    template = rng.choice(
        (
            " in the {room}",
            f" near the {thing}",
            f" with {article(thing)} {thing}",
            f" after the {thing}",
            f" instead of the {thing}",
            f" and {_verb(rng)[0]} the {thing}",
            f" and {_verb(rng)[0]} it",
            " every {day}",
            " on {day}",
            " at {time}",
            " before {time}",
            " in {month}",
            " for {mins}",
            " within {dur}",
            " {n} times",
            " with {name}",
            " in {city}",
            " twice a day",
            " once more",
            " again",
            " as well as you can",
            " slowly",
        )
    )
    return fill(template, {slot: draw(rng, slot) for slot in slots_in(template)})


def _plain_step(rng: random.Random, terse: bool) -> str:
    """Advice that takes up nothing of the message."""
    thing, verb = _thing(rng), _verb(rng)[0]
    step = rng.choice(
        (
            f"{verb} the {thing}",
            f"{verb} the {thing}",
            f"{verb} {article(thing)} {thing}",
            f"{verb} your {thing}",
            f"do not {verb} the {thing}",
            f"ask {draw(rng, 'name')} to {verb} it",
            f"write to {draw(rng, 'shop')}",
            f"say that the {thing} can be {_verb(rng)[1]}",
            f"pay {draw(rng, 'price')} for the {thing}",
            f"wait until {draw(rng, 'day')}",
            "wait",
            f"{verb} it",
            f"{verb} what is left",
        )
    )
    return step if terse else step + _adjunct(rng)


#: Advice that takes up a slot of the message: in brackets what vague.py retells where nobody is specific.
_NAMED: dict[str, tuple[str, ...]] = {
    "item": ("VERB [the {item}]", "VERB the THING of [the {item}]", "ask about [the {item}]", "VERB [your {item}]"),
    "itemb": ("VERB [the {itemb}|the other thing]", "VERB the THING of [the {itemb}|the other thing]"),
    "name": ("ask [{name}] about the THING", "VERB the THING with [{name}]", "tell [{name}] so"),
    "shop": ("take the THING to [{shop}]", "write to [{shop}]", "ask [{shop}] for THINGA"),
    "city": ("look for THINGA [in {city}]", "VERB the THING [in {city}]", "take the THING [to {city}]"),
    "day": ("VERB the THING [before {day}]", "ask again [on {day}]", "choose [{day}] for it"),
    "month": ("VERB the THING [in {month}]", "wait [until {month}]"),
    "time": ("VERB the THING [at {time}]", "VERB it [before {time}]"),
    "price": ("ask for [the {price}]", "offer [{price}] for the THING", "pay part of [the {price}]"),
    "dur": ("VERB the THING [for {dur}]", "say that it took [{dur}]", "wait [after {dur} of this]"),
    "order": ("quote [number {order}]", "write [number {order}] on the THING"),
    "code": ("look up [error {code}]",),
    "room": ("VERB the THING [in the {room}]", "put the THING [into the {room}|somewhere]"),
    "relation": ("ask [your {relation}] to VERB it", "talk to [your {relation}]"),
    "app": ("open [{app}] after the THING", "VERB the THING with [{app}]", "write to [{app}] about the THING"),
    "pet": ("VERB [the {pet}]", "keep [the {pet}] away from the THING", "give [your {pet}] THINGA"),
    "petname": ("VERB the THING with [{petname}]", "show [{petname}] THINGA"),
    "language": ("say it in [{language}]", "VERB the THING in [{language}]", "write THINGA in [{language}]"),
}
#: How a step goes on, vaguely, about what the message does not tell: there a pronoun is as much as can be said.
_UNTOLD: dict[frozenset[str], tuple[str, ...]] = {
    frozenset({"item", "itemb", "device"}): (" instead of [it|the thing]", " and ask about [it|the thing]"),
    frozenset({"name", "relation"}): (" with [them|the person]", " and tell [them|the person]"),
    frozenset({"shop"}): (" and write to [them|the firm]", " and ask [them|the firm]"),
    frozenset({"city", "room"}): (" [there|somewhere]", " and look for THINGA [there|somewhere]"),
    frozenset({"day", "month", "time", "night"}): (" [soon|at some point]", " and wait [a little|until some day]"),
    frozenset({"dur"}): (" [for a while|for some time]", " and say that it took [a while|some time]"),
    frozenset({"price"}): (" for [all of it|the sum]", " and pay part of [it|the sum]"),
    frozenset({"order"}): (" and quote [the number|some number]",),
    frozenset({"pet"}): (" and VERB [it|the animal]",),
    frozenset({"app"}): (" and VERB [it|the service]",),
    frozenset({"language"}): (" and repeat [it|the language]",),
}
#: Share of steps that go on so.
UNTOLD = 0.3
#: Share of cases with advice in a few words, as people give it.
TERSE = 0.35
_HOLDER = re.compile(r"VERB|THINGA?")


def _named_step(rng: random.Random, slots: dict[str, str], terse: bool) -> str:
    template = rng.choice(_NAMED[rng.choice([slot for slot in slots if slot in _NAMED])])
    if rng.random() < UNTOLD:
        template += rng.choice(rng.choice([found for kinds, found in _UNTOLD.items() if not kinds & slots.keys()]))
    elif rng.random() < 0.5 and not terse:
        template += _adjunct(rng)

    def word(match: re.Match[str]) -> str:
        if match.group() == "VERB":
            return _verb(rng)[0]
        thing = _thing(rng)
        return f"{article(thing)} {thing}" if match.group() == "THINGA" else thing

    return fill(with_vague(_HOLDER.sub(word, template)), slots)


@functools.cache
def _words() -> tuple[str, ...]:
    """The words of all scenarios and goods that mean nothing to an oracle."""
    text = " ".join(line for scenario in training() for line in (*scenario.steps, *scenario.limits, *scenario.jokes))
    found = set(re.findall(r"(?<![\w{])[a-z]{2,}(?![\w}])", text)) | {word for good in GOODS for word in good.split()}
    return tuple(sorted(found - _TELLING))


def salad(rng: random.Random, count: int) -> str:
    """So many words in no order, some of them never seen: what no habit of writing can continue."""
    words = [rng.choice(_words()) if rng.random() < 0.85 else made_up(rng).lower() for _ in range(count)]
    return " ".join(words)


def wild_remark(rng: random.Random) -> str:
    """A short remark of a few words, as a sentence."""
    text = salad(rng, rng.choice((1, 1, 2, 2, 3, 4)))
    text = rng.choice(("{}", "{}", "oh, {}", "{}, again", "well, {}", "{} as ever", "not {}", "such {}")).format(text)
    return text[0].upper() + text[1:] + rng.choice("...!")


def wild_lead(rng: random.Random) -> str:
    """What stands before a list, as no one puts it."""
    return salad(rng, rng.choice((1, 2, 3, 5))) + ": "


def wild_step(rng: random.Random, terse: bool) -> str:
    """Advice in words that do not belong together."""
    verb = _verb(rng)[0]
    words = salad(rng, rng.choice((1, 2) if terse else (1, 2, 3, 4, 5)))
    step = f"{verb} {rng.choice(('the ', 'a ', '', 'your '))}{words}"
    return step + (_adjunct(rng) if rng.random() < 0.3 and not terse else "")


def make_wild(rng: random.Random, plan: Plan) -> Plan:
    """Put remarks and a lead that nobody has by heart in the place of the usual ones: only copying keeps them."""
    pieces = dict(plan.pieces)
    if rng.random() < 0.8:
        pieces["empathy"] = replace(pieces["empathy"], weak=wild_remark(rng))
    if rng.random() < 0.6:
        pieces["thanks-last"] = replace(pieces["thanks-last"], weak=wild_remark(rng))
    muddled, chance = plan.muddled, rng.random()
    if chance < 0.2 and not plan.aside:  # an aside needs a sentence to stand behind
        muddled = "; ".join(("{a}", "{b}", "{c}")[: len(plan.named)]) + "."
    if rng.random() < 0.6 and muddled.startswith(("{a}", "{A}")):
        muddled = wild_lead(rng) + "{a}" + muddled[3:]
    return replace(plan, pieces=pieces, muddled=muddled)


def make_case(rng: random.Random, wild: bool = False) -> Case:
    """A problem that nobody has, with five pieces of advice for it, two or more of them about the message's own.

    In ``wild`` cases the other advice is in words that do not belong together.
    """
    verb, did = _verb(rng)
    text, detail = rng.choice(_MESSAGES), rng.choice(_DETAILS) if rng.random() < 0.4 else ""
    slots = {"verb": verb, "did": did}
    for slot in slots_in(f"{text} {detail}"):
        if slot not in slots:
            slots[slot] = draw(rng, slot, frozenset(slots.values()))
    message = read_message(text)
    terse = rng.random() < TERSE
    steps = [_named_step(rng, slots, terse) for _ in range(rng.choice((2, 2, 3)))]
    steps += [wild_step(rng, terse) if wild else _plain_step(rng, terse) for _ in range(2)]
    rng.shuffle(steps)
    if not can_choose(steps, 2):
        return make_case(rng, wild)
    query = " ".join(fill(part, slots) for part in (message.text, detail) if part)
    scenario = Scenario("free", (message,), (), tuple(_FEELINGS), tuple(steps), tuple(_LIMITS), tuple(_JOKES))
    return Case(scenario, query[0].upper() + query[1:], fill(message.clause, slots), {})


def draw_shape(rng: random.Random) -> dict[str, Any]:
    """How a training answer is written, for `write`: about what, and how far from what can be learned by heart."""
    chance = rng.random()
    wild, bare = chance < WILD, chance > 1 - BARE
    wild_case = functools.partial(make_case, wild=wild or (bare and rng.random() < WILD))
    case = wild_case if rng.random() < FREE else scenarios.make_case
    return {"case": case, "change": make_wild if wild else make_bare if bare else keep, "shaped": True}
