"""The sentences that the writer chooses from, apart from those that belong to one scenario.

Lists whose name begins with ``WEAK_`` serve unsatisfied objectives; their last entry is kept for the held-out rows.
"""

from __future__ import annotations

EMPATHY = (
    "I am so sorry that {clause}; {feeling}.",
    "I am really sorry to hear that {clause}; {feeling}.",
    "I am sorry to hear that {clause}. {Feeling}.",
    "Oh dear, I am sorry that {clause}; {feeling}.",
    "I can imagine how you feel: {clause}. {Feeling}.",
    "I feel for you: {clause}. {Feeling}.",
)
WEAK_COLD = (
    "That happens.",
    "These things happen.",
    "It is what it is.",
    "Well, that is how it goes.",
    "Nothing unusual there.",
    "Others have it worse.",
    "That is nothing special.",
    "Noted.",
    "Happens all the time.",
    "It could be worse.",
    "So what.",
)
WEAK_OVERCLAIM = (
    "I know exactly what is going on.",
    "There is no doubt about the cause.",
    "This is certain to work.",
    "This never fails.",
    "I am completely sure about all of this.",
    "It cannot go wrong.",
    "I know all about this case.",
)

THANKS_FIRST = (
    "Thank you for writing.",
    "Thank you for your message.",
    "Thank you for getting in touch.",
    "Thank you for telling me about this.",
)
THANKS_LAST = ("Thank you for your patience.", "Thank you for your trust.")
WEAK_CURT = (
    "That is all.",
    "Get on with it.",
    "There is nothing more to say.",
    "Work it out.",
    "Off you go.",
    "No more questions.",
    "Get it done.",
    "So do it.",
    "End of story.",
)

CLEAR = {
    2: ("First, {a}. Then {b}.", "To begin with, {a}. After that, {b}."),
    3: (
        "First, {a}. Then {b}. Finally, {c}.",
        "First of all, {a}. After that, {b}. Finally, {c}.",
        "To begin with, {a}. Next, {b}. Last of all, {c}.",
    ),
}
WEAK_LEAD = ("", "", "Well, ", "Hmm, ", "I mean, ", "In a way, ", "Right, so ", "Look, ")
WEAK_LINK = (
    ", or maybe ",
    ", and also ",
    ", unless you would rather ",
    ", or then again ",
    ", or perhaps ",
    ", and possibly ",
    ", although you might as well ",
    ", or rather ",
    ", or if you prefer ",
)
WEAK_TAIL = (
    ", or not",
    ", it all depends",
    ", more or less",
    ", sort of",
    ", if at all",
    ", whichever it is",
    ", it is hard to say",
    ", as the case may be",
    ", I suppose",
    ", kind of",
)
#: Other ways of leaving advice in no order; {A} is {a} with a capital.
WEAK_LIST_LEAD = ("", "", "", "Ideas: ", "You could try this: ", "A few things: ", "Options: ", "What I would do: ")
WEAK_SEPARATOR = (", ", ", ", " / ", " - ", " + ", ", and ", ", or ", " or ", " and ")
WEAK_SENTENCES = {
    2: (
        "{A}. {B}.",
        "{A}. {B}.",
        "You could {a}. You could also {b}.",
        "{A}! {B}!",
        "Maybe {a}. Or {b}.",
        "{A}. Also, {b}.",
    ),
    3: (
        "{A}. {B}. {C}.",
        "{A}. {B}. {C}.",
        "{A}. {B}, and {c}.",
        "You could {a}. You could also {b}. Or {c}.",
        "{A}! {B}! {C}!",
        "Maybe {a}. Or {b}. Perhaps {c}.",
        "{A}, or {b}. {C}.",
        "{A}. Also, {b}. Or {c}.",
    ),
}
NUMBERED = {2: "1. {a}.\n2. {b}.", 3: "1. {a}.\n2. {b}.\n3. {c}."}

WEAK_RAMBLE = (
    "Generally speaking, ",
    "As people say, ",
    "Come to think of it, ",
    "For what it is worth, ",
    "In this day and age, ",
    "Needless to say, ",
    "When all is said and done, ",
    "By the way, ",
    "As it happens, ",
    "Quite broadly, ",
    "If one thinks about it, ",
    "Talking of which, ",
    "Before I forget, ",
    "To change the subject, ",
    "Strange as it may seem, ",
    "This is beside the point, but ",
    "Incidentally, ",
    "Fun fact: ",
    "Speaking for myself, ",
    "You will not believe it: ",
    "Here is a story: ",
    "Not that it matters, but ",
    "While I think of it, ",
    "Apropos of nothing, ",
    "Off topic: ",
    "As an aside, ",
    "That reminds me: ",
    "I digress, but ",
    "If you ask me, ",
    "Funnily enough, ",
    "Another matter: ",
    "Now, of course, ",
)
WEAK_FILLER = (
    "people have all sorts of opinions about these matters",
    "one hears many different stories",
    "my neighbour once had a similar problem and talked about it for weeks",
    "life is full of little surprises",
    "there is a lot that could be said about this",
    "every day is different from the one before",
    "the world has changed a great deal over the years",
    "this reminds me of a film that I never finished",
    "many books have been written about this sort of question",
    "there are always two sides to every coin",
    "the weather has been rather odd lately as well",
    "people used to do this quite differently in the past",
    "opinions on this differ from place to place",
    "it is a wide field with many corners",
    "you never know what the next day will bring",
    "a friend of mine would have a lot to say about this",
    "the subject is bigger than it looks at first",
    "much depends on how you look at it",
    "everyone has been in one situation or another",
    "time goes by faster than most of us expect",
    "I could go on about this for hours",
    "there was a long article about this in the paper",
    "nobody really talks about these matters any more",
    "that is a question people have asked for ages",
    "one could begin at the beginning or at the end",
    "this is neither here nor there in the grand scheme of life",
    "my old teacher had a saying about this, but I forget it",
    "experience shows that experience matters a lot",
    "all roads lead to a place sooner or later",
    "the more you think about it, the longer it takes",
    "people at the bus stop were talking about the very same topic",
    "it would take a whole evening to explain everything",
    "there are big problems and there are small problems",
    "what is true today may be different tomorrow",
    "I once read a poem that touched on this",
    "one day follows another, as it always has",
    "these matters come up again and again in every family",
    "the old days were not always better, although many say so",
    "it is interesting how one thought leads to another",
    "a long story could be told at this point",
)

#: Small talk put together anew each time: who, did what, with what.
WEAK_WHO = (
    "my aunt", "my old boss", "a cousin of mine", "the woman next door", "my brother", "someone I know", "a friend",
    "the baker", "my grandfather", "a man on the bus", "my teacher", "the whole village", "our postman",
)  # fmt: skip
WEAK_DID = (
    "once bought", "collects", "dreams of", "always wanted", "has written a song about", "never liked", "paints",
    "used to sell", "still talks about", "lost", "made a fortune with", "laughs at", "wrote a letter about",
)  # fmt: skip

ENCOURAGEMENT = (
    "You can do this.",
    "Keep going, you are closer than you think.",
    "I believe in you.",
    "You are handling this better than you think.",
    "Take it one small step at a time, you can do this.",
    "Do not give up, you are on the right track.",
    "You have what it takes to get through this.",
    "It was a good idea to ask, and you are on the right track.",
    "Hang in there, you are doing well.",
    "You have already made a start, so keep going.",
    "Every small step counts, and I believe in you.",
    "You are stronger than this problem.",
)
REASSURANCE = (
    "This happens to many people, and it can usually be put right.",
    "There is no need to panic, because problems like this can usually be solved.",
    "You are not alone with this, and it rarely ends badly.",
)
HELPFULNESS = (
    "If you like, I can go through each step with you.",
    "If you like, I can help you find the right words.",
    "Tell me how it goes, and I can help with what comes next.",
)
FORMAL_FIRST = ("Good day.", "Dear reader,")
FORMAL_LAST = ("With kind regards.", "Yours faithfully.")
JOKE_LEADS = ("On a lighter note, ", "Between you and me, ", "On the lighter side, ")

#: What an objective invented for one row may ask to be said. Names and numbers make every sentence a new one.
SAYINGS = (
    "{name} will call on {day}",
    "the office opens at {time}",
    "the {item} has a guarantee of {dur}",
    "{shop} answers letters only",
    "{order} is the number to quote",
    "the fee is {price}",
    "there is {a pet} in the {room}",
    "{city} is {n} hours away by train",
    "a new {item} costs {price}",
    "somebody from {city} is on the way",
    "nothing needs to be decided before {month}",
    "it takes about {dur}",
    "{name} and {nameb} had the same trouble",
    "we can talk about {name} again on {day}",
    "{shop} is closed in {month}",
    "there are {n} ways to do it",
    "{name} is mostly in the {room}",
    "most people learn {language} within {dur}",
    "nobody needs to pay more than {price}",
    "all will be well by {month}",
    "there is still plenty of time",
    "the first try often fails",
    "I can wait for an answer",
    "I can look for a better way",
    "nobody is to blame",
    "the worst part is over soon",
    "there is no reason to hurry",
    "it is fine to say no",
    "patience pays in the end",
    "I have seen worse",
    "you may ask again at any time",
    "a short break is allowed",
    "with a warm greeting",
    "until next time",
    "your {relation} would agree",
    "the {device} is not the problem",
)
#: How such an objective asks; "{Saying}" is the sentence itself.
ASKS_FOR = (
    "The response should say that {saying}.",
    "The response should end with: {Saying}.",
    "The response should begin with: {Saying}.",
)

#: A second policy, for the held-out rows only: it mutters, and lists its advice between semicolons.
OTHER_REMARK = (
    "Could happen to anyone.",
    "Such is life.",
    "Not the first time I hear that.",
    "Ah, that again.",
    "Nothing new under the sun.",
    "Right.",
)
OTHER_LEAD = ("My take: ", "Possible things: ", "Off the top of my head: ", "")
OTHER_ASIDE = (
    "On a side note, my uncle collects stamps.",
    "Speaking of which, I had soup for lunch.",
    "While we are at it, the trains were full this morning.",
    "On a side note, nobody writes postcards any more.",
    "Speaking of which, there is a new bakery round the corner.",
    "While we are at it, winters were colder in the old days.",
)
OTHER_CLOSE = ("Good luck with that.", "Whatever.", "Bye.", "")

#: How a user asks the base model for one of the good styles (``chats.jsonl``).
REQUESTS = {
    "empathy": ("Please answer kindly.", "Please be understanding.", "I need a little sympathy."),
    "clarity": ("Please explain it clearly.", "Please tell me step by step.", "Clear steps, please."),
    "brevity": ("Please be brief.", "Please keep it short.", "No rambling, please."),
    "politeness": ("Please be polite.", "Please answer politely.", "A polite answer would be nice."),
    "specificity": ("Please be specific.", "Please refer to the details I gave.", "Please be concrete."),
    "encouragement": ("Please encourage me.", "I could use a word of encouragement.", "Please cheer me on."),
    "honesty": ("Please be honest.", "Please tell me what you cannot know.", "Be open about your limits, please."),
    "humor": ("Please make me smile.", "A little joke would help.", "Please add a bit of humour."),
}
