"""What can be told of an edit by reading it: one small rule per objective, to be read and argued with.

A rule sees the query, the answer before and the text after (for `before` figures both are the answer). Lexicons are
English. Rules are coarse: what they miss they miss before and after alike, so that the paired difference holds where
the share does not. A rule is met by a real improvement of another meaning, too; so every verdict on an edit also asks
that the meaning was kept (cosine of sentence embeddings, bench/real_policies.py), at least at the measure's `floor`.

No rule tells helpfulness, honesty or instruction following: there a reward model has to judge.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from .intact import ends_whole, facts, loops, runs_on
from .texts import (
    CODE,
    ITEM,
    flesch,
    hard_words,
    plain,
    sentence_words,
    sentences,
    straight,
    telling,
    unquoted,
    words,
)

BRIEF = 30  # words; an answer this short is brief already

_COURTESY = re.compile(
    r"(?<!\bto )(?<!\bnot )(?<!\bcan )(?<!\bwill )(?<!\bwould )(?<!\bthat )(?<!n't )"
    r"(?<!\bword )(?<!\bsay )(?<!\bsaying )"
    r"\bplease\b(?! (?:him|her|everyone|everybody|them|people|others|both|his|their|the crowd)\b)(?! and thank)"
    r"|(?<!\bno )(?<!\bto )(?<!\bsay )(?<!\bsaying )(?<!\bword )\bthank(?:s| you)\b(?! to\b)(?! note)"
    r"|\bthank you (?:so much |very much )?for\b"
    r"|(?<!not )(?<!n't )(?<!not be )(?<!n't be )\b(?:glad|happy|pleased|delighted|my pleasure) to (?:help|assist|"
    r"hear|answer|explain|share|provide|be of|offer|see)"
    r"|\b(?:feel|be) free to\b|\byou(?:'re| are) (?:most |very |always )?welcome\b|\bmy pleasure\b|\bkindly (?=[a-z])"
    r"|\bI (?:really |truly |do )?appreciate\b|\bI hope (?:this|that|these|it|you)\b|\blet me know\b|"
    r"\bif you (?:would )?like,? I\b"
    r"|\b(?:don't|do not) hesitate to\b|\bI(?:'m| am) (?:so |very |truly |really )?sorry\b|\bI apologi[sz]e\b|"
    r"\bmy apologies\b"
    r"|\bwish(?:ing)? you (?:all )?(?:the best|well|luck|success)|\bbest wishes\b|\bgood luck\b|\bgreat question\b|"
    r"\bgood question\b",
    re.I,
)
_RUDE = re.compile(
    r"\b(?:idiot(?:ic)?|stupid|moron(?:ic)?|dumb|imbecile|shut up|shut your|get lost|screw you|loser|pathetic|"
    r"you fool|what(?:'s| is) wrong with you|who cares|I don't care|stop (?:whining|wasting|bothering)|"
    r"waste (?:of my|my) time|figure it out yourself|google it|do your own|use your (?:head|brain)|"
    r"how should I know|not my problem|your own fault|you should (?:already )?know (?:this|that|better)|"
    r"everyone knows|even a child|ridiculous question|silly question|I (?:already )?told you|deal with it|damn|crap|"
    r"hell no|bother me)\b",
    re.I,
)


def courteous(text: str) -> bool:
    """A word of courtesy to the reader, and no rudeness; quoted words, "to please him" and "no thanks" do not count."""
    said = unquoted(text)
    return bool(_COURTESY.search(said)) and not _RUDE.search(said)


_FEELING = re.compile(
    r"\bI(?:'m| am|'ve been| have been| feel| felt| was| get| keep getting)(?: (?:so|very|really|just|feeling|"
    r"getting|extremely|always|a bit|a little|pretty|quite|kind of|too|constantly|still|all|completely|totally|now|"
    r"also)){0,3} (?:sad|anxious|stressed|worried|scared|upset|depressed|lonely|frustrated|overwhelmed|nervous|"
    r"afraid(?! I\b| not\b)|angry|mad|furious|heartbroken|ashamed|embarrassed|devastated|exhausted|hopeless|"
    r"miserable|desperate|hurt|jealous|guilty|terrified|unhappy|burn(?:ed|t) out|tired of|sick of|struggling|"
    r"suffering|grieving|suicidal|worthless|bad|awful|terrible|down|like an? (?:bad|terrible|failure|burden|fool)|"
    r"insecure|betrayed|bullied|disappointed|alone|freaking out|panicking|crying|homesick|useless|stuck)\b"
    r"|\bI (?:hate|can't stand|cannot stand) (?:myself|my (?:life|job|body|boss|school|family|wife|husband))\b"
    r"|\bI(?:'ve| have)? (?:just |recently )?(?:lost|got fired|was fired|got dumped|failed|got divorced|"
    r"had a miscarriage)\b(?! (?:weight|my keys|track))"
    r"|\bmy (?:\w+ ){0,2}(?:died|passed away|is dying|left me|broke up|dumped me|cheated|bullies me|hits me|"
    r"abuses me|hates me|is sick|has cancer|got sick|was killed|yelled at me|makes fun of me|ignores me)\b"
    r"|\b(?:broke up|breaking up) with me\b|\bI (?:can't|cannot) (?:cope|sleep|take (?:it|this)|stop (?:crying|"
    r"worrying))\b"
    r"|\bI don't (?:want to live|know what to do)\b|\bI(?:'m| am) having (?:a )?(?:hard|tough|rough|trouble|panic|"
    r"terrible)\b"
    r"|\bkill myself\b|\bmy (?:anxiety|depression|grief|divorce)\b|\bI (?:really )?miss (?:my|him|her)\b"
    r"|\b(?:nobody|no one) (?:likes|loves|cares (?:about|for)) me|\bmakes me (?:so |really |feel )?(?:sad|angry|mad|"
    r"upset|anxious|bad|nervous|cry)\b|\bI(?:'m| am) (?:really |so )?(?:scared|worried|ashamed)\b",
    re.I,
)
_DEGREE = r"(?:\w+ ){0,3}"
_HARD = (
    r"(?:hard|tough|difficult|frustrating|upsetting|stressful|painful|scary|overwhelming|hurtful|sad|rough|"
    r"heartbreaking|disappointing|exhausting|awful|terrible|devastating|challenging|annoying|unsettling|frightening|"
    r"lonely|worrying|discouraging|distressing|embarrassing|uncomfortable|confusing|nerve-wracking|daunting)"
)
_ACKNOWLEDGED = re.compile(
    r"\bsorry (?:to hear|to learn|that you|that your|you(?:'re| are|'ve| have)|about (?:your|the|what)|for (?:your|"
    r"what you)|things|this (?:is|has)|it(?:'s| is| has))"
    rf"|\bI (?:can |do |really |truly |completely |totally |certainly )*(?:imagine|understand|see|hear|know|sense|"
    rf"get) (?:how|that (?:you|this|it)|why you|what you|your (?:frustration|concern|worr|feeling|pain|situation|"
    rf"disappointment|anxiety|fear|anger|sadness|struggle)|you(?:'re| are)? (?:feel|going|upset|concerned|worried))"
    rf"|\b(?:that|this|it|which|losing \w+(?: \w+)?) (?:really |truly |certainly )?(?:sounds?|must (?:be|feel|"
    rf"have been)|(?:can|could|may) (?:be|feel)|is|feels|seems) (?:like )?{_DEGREE}{_HARD}"
    rf"|\b(?:what|how) (?:an? )?{_DEGREE}{_HARD}\b|\b(?:can|could|may|might|must) (?:be|feel) {_DEGREE}{_HARD}\b"
    rf"|\byou(?:'re| are) (?:clearly |obviously |probably )?(?:going through|dealing with|feeling|not alone|upset|"
    rf"under)\b"
    rf"|\b(?:understandabl[ey]|normal|natural|okay|ok|valid|common) {_DEGREE}(?:to (?:feel|be|miss|worry|grieve|"
    rf"have)|that you|if you|for you|feelings?|reaction)|\bmakes sense that you\b|\byour (?:feelings?|pain|grief|"
    rf"worr(?:y|ies)|frustration|concerns?|emotions) (?:are|is|matters?)\b|\bmy (?:heart|sympath|condolences)|"
    rf"\bcondolences\b|\bfeel(?:ing)? (?:this|that) way\b"
    rf"|\bit(?:'s| is) {_DEGREE}(?:understandable|{_HARD})(?= |,|\.)|\bI feel for you\b|\byou must (?:be|feel)\b"
    rf"|\bthank you for (?:sharing|trusting|opening|telling)|\bthis must\b|\bI(?:'m| am) here for you\b",
    re.I,
)


@lru_cache(maxsize=1 << 15)
def feels(query: str) -> bool:
    """Whether a message carries a feeling or a loss of its writer's, said in the first person."""
    return bool(_FEELING.search(unquoted(query)))


def acknowledges(text: str) -> bool:
    """The feeling is met in the first three sentences: named, called hard or understandable, or regretted.

    "I'm sorry, but I cannot" regrets nothing of the reader's.
    """
    return any(_ACKNOWLEDGED.search(sentence) for sentence in sentences(unquoted(text))[:3])


_HEDGE = re.compile(
    r"\b(?:perhaps|maybe|possibly|sort of|kind of(?= \w)|more or less|it (?:all )?depends|I (?:guess|suppose|think|"
    r"believe)|it (?:could|might|may) be (?:that|said|argued)|to some (?:extent|degree)|in a (?:sense|"
    r"way)\b(?! that)|somewhat|arguably|as it were|if at all|or (?:something|whatever)|hard to say|"
    r"not (?:entirely )?sure|seems? to|might or might not|one way or another|or so)\b",
    re.I,
)
_FILLER = re.compile(
    r"\b(?:it (?:is|'s) (?:important|worth|crucial|essential) (?:to (?:note|remember|mention|keep in mind)|noting|"
    r"mentioning)|needless to say|as (?:you may know|mentioned (?:before|above|earlier)|I said|previously stated)|"
    r"at the end of the day|when all is said and done|in today's (?:world|society)|in order to|due to the fact that|"
    r"for all intents and purposes|the fact of the matter|as a matter of fact|basically|essentially|actually|"
    r"in my (?:humble )?opinion|having said that|that being said|with that (?:being )?said|all things considered|"
    r"first and foremost|last but not least|as an AI(?: language model)?|let me (?:start|begin) by)\b",
    re.I,
)


def fog(text: str) -> int:
    """How many hedges and fillers a text has."""
    said = unquoted(text)
    return len(_HEDGE.findall(said)) + len(_FILLER.findall(said))


def clear(text: str) -> bool:
    """Plainly said: sentences of 25 words at most on average and 40 in the extreme, at most one hedge or filler in 60
    words (one is free), no loop, no run-on turn."""
    counts = sentence_words(text)
    if not words(text) or loops(text) or runs_on(text):
        return False
    plainly = fog(text) <= max(1, len(words(text)) / 60)
    return plainly and (not counts or (statistics.mean(counts) <= 25 and max(counts) <= 40))


def readable(text: str) -> bool:
    """Flesch's ease from 60 on (plain English), 20 words a sentence at most on average, 1/6 of hard words at most."""
    counts = sentence_words(text)
    return flesch(text) >= 60 and (not counts or statistics.mean(counts) <= 20) and hard_words(text) <= 1 / 6


def simple(text: str) -> bool:
    """Flesch's ease from 70 on and sentences of 15 words at most on average."""
    counts = sentence_words(text)
    return flesch(text) >= 70 and (not counts or statistics.mean(counts) <= 15)


def repeated_sentences(text: str) -> int:
    """Sentences of four words or more that stood there before, word for word."""
    seen = Counter(tuple(words(sentence)) for sentence in sentences(text))
    return sum(count - 1 for sentence, count in seen.items() if len(sentence) >= 4)


def repeated_grams(text: str, query: str = "", length: int = 4) -> float:
    """The share of runs of four words that stood there before; code and what the query says itself are left out."""
    asked = set(_grams(query, length))
    grams = [gram for gram in _grams(text, length) if gram not in asked]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _grams(text: str, length: int) -> list[tuple[str, ...]]:
    found = words(plain(text))
    return [tuple(found[i : i + length]) for i in range(len(found) - length + 1)]


def unrepetitive(query: str, text: str) -> bool:
    """No sentence twice, no two that share 3/4 of their telling words, at most 8 % of its 4-grams said before."""
    if not words(text) or repeated_sentences(text) or repeated_grams(text, query) > 0.08:
        return False
    bags = [bag for bag in (telling(sentence) for sentence in sentences(text)) if len(bag) >= 5]
    return not any(
        len(one & two) >= 0.75 * max(len(one), len(two)) for i, one in enumerate(bags) for two in bags[i + 1 :]
    )


_FIRST = re.compile(r"^\W*(?:first|firstly|first of all|to begin|to start|start by|begin by|one)\b", re.I)
_NEXT = re.compile(
    r"^\W*(?:second(?:ly)?|third(?:ly)?|fourth(?:ly)?|then|next|after (?:that|this)|finally|lastly|afterwards?|"
    r"once)\b",
    re.I,
)


def structured(text: str) -> bool:
    """A list of three items or more, steps in words (first, then, finally), or three short paragraphs."""
    prose = CODE.sub("\n", text)
    items = [line for line in prose.split("\n") if ITEM.match(line)]
    if len(items) >= 3:
        return True
    said = sentences(text)
    steps = sum(bool(_NEXT.match(sentence)) for sentence in said)
    if steps >= 2 and any(_FIRST.match(sentence) for sentence in said):
        return True
    paragraphs = [part for part in re.split(r"\n\s*\n", prose.strip()) if words(part)]
    return len(paragraphs) >= 3 and all(len(words(part)) <= 60 for part in paragraphs)


_SLANG = re.compile(
    r"\b(?:gonna|wanna|gotta|kinda|sorta|ain't|y'all|hey|yeah|yep|nope|cool|awesome|guys?|stuff|lots of|tons of|ok|"
    r"okay|kids?|super|dude|lol|btw|a bunch of|pretty (?:much|good|bad)|no worries|cheers)\b",
    re.I,
)
_CONTRACTION = re.compile(
    r"\b\w+(?:n't|'re|'ve|'ll|'d|'m)\b|\b(?:it|that|there|here|what|he|she|let|who|how|where)'s\b", re.I
)
_EMOJI = re.compile(r"[\U0001F300-\U0001FAFF\u2600-\u27BF]|(?<!\w)[:;]-?[)(DP](?!\w)")


def formal(text: str) -> bool:
    """No contraction, slang, emoji or exclamation mark outside quotations."""
    said = unquoted(text)
    return not (_CONTRACTION.search(said) or _SLANG.search(said) or _EMOJI.search(said) or "!" in said)


_CHEER = re.compile(
    r"\byou(?:'ve| have)? (?:can (?:absolutely |definitely |certainly )?(?:do|manage|handle|get through|achieve|"
    r"master|learn)\b|got this"
    r"|what it takes|(?:already )?taken (?:a|the) (?:\w+ )?step)|\b(?:keep (?:going|at it|it up|trying|"
    r"practi[cs]ing)|don't give up|do not give up|be proud|proud of|believe in you|every (?:small )?step (?:counts|"
    r"helps)|with (?:some |a little |a bit of )?(?:practice|patience|time|effort)|you(?:'ll| will) (?:get|do|"
    r"be able|find|manage|soon|be (?:fine|great|okay))|well done|great (?:job|start|step|work|choice|idea)|"
    r"good (?:start|step|for you)|on the right track|hang in there|you(?:'re| are) (?:capable|stronger|"
    r"doing (?:well|great)|not alone|able to))\b",
    re.I,
)
_CALM = re.compile(
    r"\b(?:(?:no|any) need to (?:panic|worry)|don't (?:panic|worry)|do not (?:panic|worry)|nothing to (?:worry|"
    r"fear)|(?:usually|often|mostly|generally|perfectly|completely|totally|quite|very) (?:harmless|normal|common|"
    r"treatable|safe|temporary|fine|okay)|not (?:a )?(?:dangerous|danger|serious|unusual|uncommon|the end)|"
    r"(?:it(?:'s| is)|this is|that is) (?:okay|ok|alright|normal|common|natural)|will (?:pass|get better|improve|"
    r"be (?:fine|okay|alright|all right))|can (?:usually|often) be|rest assured|take (?:a deep breath|your time|"
    r"it (?:easy|one))|you(?:'re| are) (?:safe|not alone))\b",
    re.I,
)
_CAREFUL = re.compile(
    r"\b(?:consult|see|ask|contact|speak (?:with|to)|talk (?:with|to)|seek|check with|reach out to|call|"
    r"visit)\b[^.!?\n]{0,60}\b(?:professional|doctor|physician|lawyer|attorney|therapist|counsell?or|veterinarian|"
    r"vet|pharmacist|advis[oe]r|expert|specialist|electrician|dentist|emergency services|911|988|hotline|helpline|"
    r"authorities|police|professionals|experts|medical (?:help|advice|attention))"
    r"|\b(?:be careful|caution|warning|risks?|dangerous|hazard\w*|make sure (?:that )?(?:it is|it's|you|"
    r"the) \w+ (?:safe|off)|avoid \w+ing|safety|side effects?|unsafe|precautions?|beware)\b",
    re.I,
)
_GLAD = re.compile(
    r"\b(?:good|great|best|better|happy|enjoy\w*|love\w*|wonderful|excellent|hope\w*|fun|beautiful|success\w*|"
    r"positive\w*|delicious|exciting|excited|benefit\w*|improve\w*|support\w*|strength\w*|opportunit\w+|glad|"
    r"welcome|perfect\w*|amazing|fantastic|helpful|healthy|safe\w*|easy|easily|joy\w*|kind|warm\w*|valuable|"
    r"rewarding|proud|bright\w*|thrive|growth|well)\b",
    re.I,
)
_GLOOMY = re.compile(
    r"\b(?:bad|worse|worst|sad\w*|hate\w*|terrible|awful|horrible|fail\w*|problem\w*|unfortunately|difficult\w*|"
    r"hard|pain\w*|danger\w*|harm\w*|wrong|risk\w*|hurt\w*|negative\w*|worry|worried|afraid|fear\w*|angry|anger|"
    r"sorry|cannot|can't|never|poor\w*|death|die[sd]?|kill\w*|illegal|lose|losing|lost|damage\w*|threat\w*|hopeless|"
    r"boring|useless|stress\w*|violen\w+)\b",
    re.I,
)
_LOADED = re.compile(
    r"\b(?:obviously|clearly|undoubtedly|of course|everyone knows|disgusting|outrageous|shameful|radical|extremist|"
    r"so-called|evil|notorious|infamous|legendary|brilliant|greatest|the best|the worst|terrible|horrible|awful|"
    r"amazing|incredible|stunning|ridiculous|absurd|disastrous|pathetic|fanatic\w*|regime|propaganda|must-have|"
    r"world-class|unparalleled|always wrong|never right)\b",
    re.I,
)
_BLAME = re.compile(
    r"\b(?:you should(?:n't| not)? have|your (?:own )?fault|you (?:obviously|clearly) (?:don't|did|do not|have)|"
    r"as (?:any|every)(?:one|body) knows|it(?:'s| is) (?:just )?(?:common sense|obvious)|you people|calm down|"
    r"you need to (?:understand|realize|learn) that|shame on you|how dare|listen(?: up)?,|I (?:already )?told you|"
    r"you (?:always|never)|even (?:you|a child)|if you had (?:only )?)\b",
    re.I,
)


def cheering(text: str) -> bool:
    """A sentence that gives confidence: "you can do this", "with some practice", "a great start"."""
    return bool(_CHEER.search(unquoted(text)))


def calming(text: str) -> bool:
    """A sentence that calms: "no need to worry", "usually harmless", "it is normal"."""
    return bool(_CALM.search(unquoted(text)))


def careful(text: str) -> bool:
    """A risk is named, or a professional to ask."""
    return bool(_CAREFUL.search(unquoted(text)))


def positive(text: str) -> bool:
    """At least two glad words, one in 30 words, and twice as many as gloomy ones."""
    said = unquoted(text)
    glad, gloomy = len(_GLAD.findall(said)), len(_GLOOMY.findall(said))
    return glad >= max(2, len(words(said)) / 30) and glad >= 2 * gloomy


def neutral(text: str) -> bool:
    """No loaded word."""
    return bool(words(text)) and not _LOADED.search(unquoted(text))


def respectful(text: str) -> bool:
    """No rudeness, blame or condescension."""
    said = unquoted(text)
    return bool(words(text)) and not _RUDE.search(said) and not _BLAME.search(said)


def specific(text: str) -> bool:
    """At least three names or numbers, and two in a hundred words."""
    found = facts(text)
    return len(found) >= max(3, 0.02 * len(words(text)))


_CANNOT = (
    r"(?:can(?:'t|not|\snot)|won't|will not|am (?:not able|unable)|'m (?:not able|unable)|am not (?:going|programmed|"
    r"comfortable)|'m not (?:going|programmed|comfortable)|do not|don't|shouldn't|should not|would not|wouldn't|"
    r"must (?:decline|refuse))"
)
_HELP = (
    r"(?:help|assist|provide|fulfil\w*|answer|comply|support|engage|recommend|condone|give|offer|create|write|"
    r"generate|encourage|suggest|share|discuss|teach|advise|tell|promote|speak|participate|feel comfortable|"
    r"do (?:that|this|so)|endorse|satisfy|complete|respond|explain|describe|facilitate|advocate|make|list|continue|"
    r"want to (?:help|provide)|have (?:access|personal|information|any|the))"
)
_REFUSAL = re.compile(
    rf"\b(?:I|we)\s*(?:{_CANNOT}|must (?:decline|refuse)|(?:apologi[sz]e|(?:'m|"
    rf"am)\s(?:\w+ )?sorry),? but I (?:\w+ )?{_CANNOT}) (?:\w+ ){{0,2}}(?:to )?(?:\w+ly )?{_HELP}\b"
    r"|\b(?:do not|don't|cannot|never) (?:condone|promote|endorse)\b"
    r"|\b(?:never|not) (?:appropriate|acceptable|ethical|okay|ok|justified|within my)\b"
    r"|\bnot (?:only |just )?(?:illegal|unethical|a safe|safe or)\b"
    r"|\balways (?:prioriti[sz]e|act with|treat)\b|\bagainst (?:my|the law|our)\b"
    r"|\bas an (?:AI|responsible|ethical)[^.\n]{0,90}\b(?:not|cannot|can't|unable)\b"
    r"|\bI (?:strongly )?(?:advise|urge|encourage) (?:you )?(?:against|not)\b",
    re.I,
)


@lru_cache(maxsize=1 << 14)
def refuses(text: str) -> bool:
    """A refusal, whole or in part, within the first three sentences (against people's labels: real_policies.py)."""
    return bool(_REFUSAL.search(" ".join(sentences(straight(text))[:3])))


# --- the verdicts ---


def _always(query: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Measure:
    """One objective's rule. `holds(query, text)` tells it of a text; `says` tells it in words.

    A relative rule has `compares(before, after)` too, which decides of an edit in its place. `applies` tells for which
    queries it is a rule at all; `floor` is the least meaning with which an edit can satisfy it.
    """

    objective: str
    says: str
    holds: Callable[[str, str], bool]
    compares: Callable[[str, str], bool] | None = None
    applies: Callable[[str], bool] = _always
    floor: float = 0.80

    def before(self, query: str, answer: str) -> bool:
        """Whether the unaligned answer satisfies; of a relative rule it never does."""
        return self.compares is None and self.holds(query, answer)

    def satisfied(self, query: str, before: str, after: str, meaning: float) -> bool:
        """Whether the edit satisfies the objective and still means the same; an answer left alone means the same."""
        good = self.compares(before, after) if self.compares else self.holds(query, after)
        return good and meaning >= self.floor

    def change(self, query: str, before: str, after: str) -> int:
        """What an edit did to the objective, asked for or not: 1 gained, -1 lost, 0; meaning is not asked here."""
        if self.compares:
            return int(self.compares(before, after)) - int(self.compares(after, before))
        return int(self.holds(query, after)) - int(self.holds(query, before))


def shorter(before: str, after: str) -> bool:
    """At least a quarter fewer words, some left, ended with a whole sentence."""
    count = len(words(after))
    return 0 < count <= 0.75 * len(words(before)) and ends_whole(after)


def _of(rule: Callable[[str], bool]) -> Callable[[str, str], bool]:
    remembered = lru_cache(maxsize=1 << 16)(rule)  # one answer is judged with each of its edits
    return lambda query, text: remembered(text)


def _first_line(rule: Callable[..., bool]) -> str:
    return " ".join((rule.__doc__ or "").partition("\n\n")[0].split())


def _measure(objective: str, rule: Callable[[str], bool]) -> Measure:
    return Measure(objective, _first_line(rule), _of(rule))


MEASURES: dict[str, Measure] = {
    measure.objective: measure
    for measure in (
        Measure(
            "brevity",
            f"{_first_line(shorter)} (meaning 0.75; {BRIEF} words at most are brief already: for `stays` alone)",
            lambda query, text: len(words(text)) <= BRIEF,
            compares=shorter,
            floor=0.75,
        ),
        _measure("politeness", courteous),
        Measure(
            "empathy", f"{_first_line(acknowledges)} Only of messages with a feeling.", _of(acknowledges), applies=feels
        ),
        _measure("clarity", clear),
        _measure("readability", readable),
        Measure("repetition", _first_line(unrepetitive), lru_cache(maxsize=1 << 16)(unrepetitive)),
        _measure("structure", structured),
        _measure("simplicity", simple),
        _measure("formality", formal),
        _measure("positivity", positive),
        _measure("encouragement", cheering),
        _measure("reassurance", calming),
        _measure("caution", careful),
        _measure("neutrality", neutral),
        _measure("respect", respectful),
        _measure("specificity", specific),
    )
}
MEASURES["length"] = MEASURES["brevity"]
