"""The words of the synthetic demo data: what customers of an imagined shop may write.

`[a|b]` is a choice, `{name}` a word of `WORDS` (the same throughout a message).
"""

from __future__ import annotations

WORDS = {
    "item": (
        "kettle|desk lamp|rain jacket|blender|backpack|phone case|office chair|toaster|yoga mat|"
        "keyboard|wool jumper|garden hose|bike light|board game|coffee grinder|frying pan|duvet|tent|"
        "suitcase|water bottle|bookshelf|alarm clock|vacuum|heater|webcam|mirror|rug|wallet|hair dryer|"
        "radio|puzzle|drill|monitor|lunch box|camera bag|scarf|umbrella|printer|desk|telescope|pillow|"
        "teapot|skateboard|microphone|flower pot"
    ),
    "other": ("mug|tray|shelf|towel|clock|bowl|speaker|belt|basket|blanket|cable|notebook|stool|cap|candle|charger"),
    "colour": "blue|grey|red|green|black|white|yellow|brown",
    "when": (
        "yesterday|on Monday|on Tuesday|last week|two weeks ago|this morning|over the weekend|"
        "on the 3rd|last month|on Friday|in March|the other day|a while ago|last night"
    ),
    "day": "Monday|Tuesday|Saturday|yesterday|this morning|last week|the update|your mail",
    "until": (
        "tomorrow|Friday|the weekend|next week|her birthday|our trip|Christmas|the 20th|Monday|the party|we move house"
    ),
    "span": "three days|a week|nine days|two weeks|ten days|a month|four days|five weeks|eleven days",
    "amount": "$18|$42.50|30 pounds|$65|$25|24.99|12 euros|$110|$7|80 pounds|$33|$54.90",
    "place": "the islands|Norway|a hotel|my office|Ireland|a campsite|my sister's flat",
    "person": "daughter|brother|mother|boss|neighbour|son|friend|grandmother|flatmate",
    "name": "Sam|Nora|J. Patel|Mrs Cole|Tom|Ines|Lee|Oskar|Amira|Bea|Mr Hall|Yuki",
    "number": "4471|20983|77120|3056|915|61244|8802|13579",
}

# What the writer wants. A clause stands alone and ends in "?" when it is a question.
WANTS = {
    "delivery": (
        "where is [my|the] {item}[| I ordered {when}| that left you {when}]?",
        "[my|the] {item} [still has not|hasn't|has yet to] [turned up|arrived|come|reach me][| after {span}]",
        "[the tracking|the map] has [not moved|shown the same town|said 'on its way'] for {span}",
        "can you leave the {item} with [my neighbour|reception|number 12|my {person}] [instead|if I am out]?",
        "can the {item} [get to me|be brought|be here] [before|by] {until}?",
        "[please change|I need to change] the address on the {item} [before it leaves|to {place}]",
        "the driver [left a card|could not find us|went to the wrong house] [so I have none|with my {item}]",
        "it says handed over [to a resident|at the door|{when}] but nobody here [has seen|got] the {item}",
        "how long does [sending|posting] a {item} to {place} take?",
        "only [half|one box|two boxes out of three] of what I [paid for|ordered] {when} has come",
        "when will the [van|courier|driver] with the {item} [come|be here]?",
        "I was in all day and no one [rang|knocked|came] with the {item}",
        "[my {person} needs|I need] the {item} by {until}, is it [on its way|even packed yet]?",
        "the box is [sitting|stuck] in [a depot|customs|your warehouse] [since {day}|for {span}]",
    ),
    "refund": (
        "I [want|would like] [my money back for the {item}|to be paid back for the {item}]",
        "[you charged me|my card was billed|I paid] twice for [the|one] {item}",
        "the {amount} [for the {item} I sent back|you owe me] is not [on my card|in my bank] [yet|at all]",
        "when [will|do] I see [the|my] {amount} [again|on my card|in my bank]?",
        "please [put|pay|send] the {amount} [back on my card|back to my bank|to my new card]",
        "I [posted|sent|brought] the {item} back {when} and [no money|nothing] has [come|been paid]",
        "the {item} was {amount} less [the next day|in the sale|{when}], can I have the difference?",
        "[the discount|my code|the voucher] was not taken off and I paid {amount} too much",
        "I cancelled the {item} {when} but you still took {amount}",
        "I no longer [want|need] the {item}, how do I get [the {amount}|what I paid]?",
        "you charged {amount} for [postage|wrapping|shipping] although it [said|was] free",
        "the receipt says {amount} but {cents} cents more [left|went from] my bank",
        "my {person} already [bought me|has] a {item}, can I return mine for [cash|what it cost]?",
        "[the courier lost|you never sent] the {item} so I want what I [paid|spent]",
    ),
    "account": (
        "I [cannot|can't] [log in|sign in|get in] [since {day}|with my new phone|to see my {item}]",
        "the [reset|confirmation] [mail|link] [never comes|never arrives|has expired]",
        "[please change|how do I change] the email [you have for me|on my profile][|, the old one is gone]",
        "my password [is not accepted|stopped working|is refused] [since {day}|on the new site]",
        "[please delete|please close|I want you to remove] my [profile|data|login]",
        "[stop sending me|take me off the list for] [offers|the newsletter|your adverts][| about the {item}]",
        "my name is [spelt wrong|still the old one] [on my profile|when I order]",
        "the [app|site] [logs me out|throws me out] [every time I open the basket|when I click the {item}]",
        "I am [locked out|shut out] after [three|too many] tries [{when}|and need my order list]",
        "the code [you send to|that comes to] my phone is [wrong|refused|too late to type]",
        "the card [saved|you keep] on my profile has [expired|changed], how do I replace it?",
        "[someone else|my {person}] [used|is using] my login to buy a {item}",
        "my points from the {item} [are not showing|have gone] [in the app|on my page]",
        "I have two profiles with [one|the same] email, can you join them?",
    ),
    "exchange": (
        "the {item} came [cracked|broken|dented|scratched], [please send|I need] [another|a whole one]",
        "you sent [the wrong size|a {colour} one|a {other}], I [need|ordered] the {colour} {item}",
        "the {item} [stopped working|will not switch on|fell apart] after {span}, can I get another?",
        "[can I|may I] swap the {item} for [a bigger one|a {colour} one|the newer model]?",
        "[a part|one screw|the lid] is missing from the {item}, can you [send it|send a complete one]?",
        "the {item} is too [small|big|heavy], can we [trade|swap] it for the [next size|other model]?",
        "I would rather have the {item} in {colour}, mine is still [boxed|sealed]",
        "can I bring the {item} [back|in] and take [a larger|a {colour}|another] one [home|instead]?",
        "[mine|the {item}] [rattles|smells of burning|leaks], I want one that [works|does not]",
        "two left [halves|sides] in the {item} box, I need one [right|left] and one [right|left]",
        "my {item} [broke|split] {when} and it is under guarantee, [please|kindly] send a new one",
    ),
    "stock": (
        "do you [have|sell|still make] the {item} in {colour}?",
        "when will the {item} be [back|on sale again|in the shop]?",
        "does the {item} [fit a small car|come with a lid|need batteries|work abroad]?",
        "is the {item} [waterproof|safe for children|made of wool|as heavy as it looks]?",
        "how [wide|tall|heavy|loud] is the {item}[| when packed]?",
        "will there be more of the {item} before {until}?",
        "which {item} would [suit|you pick for] [a small kitchen|a beginner|my {person}]?",
        "the page says sold out, [will you get|can I wait for] [more|another {colour} {item}]?",
        "can I [look at|try|reserve] the {item} in your shop before {until}?",
        "I am thinking of [buying|getting] the {item}, [is the {colour} one left|what sizes are there]?",
    ),
    "praise": (
        "the {item} is [wonderful|lovely|perfect|better than the picture][| and my {person} loves it]",
        "[your driver|the woman on the phone|the man in the shop] was [so kind|brilliant|patient][| {when}]",
        "I [could not be happier|am really pleased] with [the {item}|how you handled this]",
        "best {item} I have [owned|bought] in years",
        "you sorted out my [card|login|parcel|broken {item}] in [an hour|a day], [well done|that is rare]",
        "I [have told|will tell] [everyone|my {person}] about [your shop|the {item}]",
        "never had [a shop answer|money come back|a parcel come|a swap go through] so [fast|smoothly]",
        "[five|ten] out of ten for the {item} [and the people|and the packing]",
    ),
}

# Hard: the want without its usual words, often under a layer of irony.
INDIRECT = {
    "delivery": (
        "[great|lovely|wonderful], [another|one more] day [at the window|at home] and an empty doorstep",
        "[lovely|bravo|impressive], {span} to [cross one town|travel forty miles]",
        "[bravo|super], my {item} is [touring the country|seeing more of the world than I do]",
        "so my {item} [likes your warehouse|prefers the depot] [better than me|to my kitchen]",
        "my {person} keeps asking about the {item} and I keep [pointing at the gate|looking down the street]",
        "the birthday is over, the {item} [was not there|missed it], thank you [very much|so much]",
        "the [neighbours|people next door] seem to be enjoying my {item}",
    ),
    "refund": (
        "[wonderful|great|lovely], you keep the {item} and my {amount} too",
        "nice trick, one {item}, two [payments|bills]",
        "[thanks for the lesson|lovely, a free gift], it cost me {amount}",
        "the {item} is with you again, my {amount} [is too|should be with me]",
        "{span} now and my bank [has heard nothing|knows nothing] from you, [great|splendid]",
        "[bravo|well done], a sale that makes the {item} {amount} [dearer|more] than the tag says",
        "I see [no {item}|neither parcel] and {amount} less [in my purse|on the card]",
    ),
    "account": (
        "[marvellous|great], your site has forgotten [who I am|that I exist]",
        "what a clever page, it wants [the code it never sent|an answer I never set]",
        "[lovely|bravo], your app greets me as [{name}|my {person}] and shows [her|his] {item}",
        "I type it right five times and [the door stays shut|it still says no]",
        "[thank you for|how sweet,] the ninth advert this week, I [never asked|have asked you to stop]",
        "my {person} and I share a computer and now I [am greeted as|see the orders of] the wrong one",
        "the page asks for a phone I [lost|sold] {when}",
    ),
    "exchange": (
        "[superb|great], a {item} in two halves, [one in a single piece|a whole one] next, please",
        "lovely {item}, shame about the hole, one without it would [do|be nice]",
        "[bravo|nice], I order {colour} and get {colour2}, [try again|have another go]",
        "my {item} [lasted|lived] {span}, its [brother|successor] may come [now|when it likes]",
        "a {item} for giants [came|arrived], we are [ordinary people|rather small], what now?",
        "it is a {other} in a {item} box, [funny|great fun], now the real thing",
    ),
    "stock": (
        "[brilliant|great] advert for a {item} nobody can buy, [when can we|how long will that last]?",
        "my {person} [wants|dreams of] the {item} but your page [shows it in grey|has no button for it]",
        "I [measured|have] a gap of {inches} inches, would the {item} go in?",
        "would the {item} survive [my {person}|a winter outside]? I have not [decided|made up my mind]",
        "I [keep looking|come by every day] for the {item} and the shelf stays empty",
    ),
    "praise": (
        "I looked for something to complain about and found [nothing|not one thing]",
        "nothing late, nothing broken, nothing [lost|overcharged], [that is all|just so you know]",
        "I was ready to send the {item} back, now I [would not part with it|use it daily]",
        "I expected to wait {span} for the {item}, it came [next day|overnight], hats off",
        "my {person} [stole|took] the {item} [the minute|as soon as] [it came|she saw it], need I say more",
    ),
}

# Hard: another topic, named and settled …
SETTLED = {
    "delivery": (
        "the {other} [came|arrived] [on time|{when}]",
        "the driver was [quick|early|friendly]",
        "[everything|the parcel] [got here|came] fine",
    ),
    "refund": (
        "the money for the {other} is [back on my card|in my bank]",
        "the {amount} for the {other} came back {when}",
        "you [paid back|returned] what I was owed for the {other}",
    ),
    "account": (
        "I can [log in|sign in] [again|now]",
        "[my|the] new password works",
        "my [profile|email] is [right|sorted] now",
    ),
    "exchange": (
        "the [new|second] {other} you sent [works|fits]",
        "the swap of the {other} went well",
        "the cracked {other} [was|has been] replaced",
    ),
    "stock": (
        "I see the {other} is back in the shop",
        "you [had|found me] the {other} in {colour}",
        "the size of the {other} is clear now",
    ),
    "praise": (
        "I [love|like] the {other}",
        "[your shop is great|nice site]",
        "the {other} is [lovely|perfect]",
        "your people are [kind|patient]",
    ),
}

# … or named and denied.
DENIED = {
    "delivery": (
        "[this is not|it is not] about [the parcel|the courier]",
        "no rush with the [van|posting]",
        "[never mind|forget] when it comes",
    ),
    "refund": (
        "I do not want [my money back|a refund|any money]",
        "keep the [money|{amount}]",
        "this is not about [the payment|the bill]",
    ),
    "account": (
        "my login is [fine|not the problem]",
        "it is not [the password|my profile] this time",
    ),
    "exchange": (
        "[I do not want|please do not send] [another one|a new one]",
        "[no swap needed|I am not asking for a swap]",
    ),
    "stock": (
        "I am not [buying|ordering] [more|anything new]",
        "I know [you have none left|what sizes there are]",
    ),
    "praise": (
        "[this is no|not a] thank-you note",
        "I [wish|would like] to say something nice but",
    ),
}

# Hard, praise only: a trouble that is over.
OVERCOME = (
    "it came a day late",
    "the first one was [cracked|the wrong size|{colour}]",
    "I was [charged|billed] twice at first",
    "I could not [log in|sign in] {when}",
    "the {other} was sold out",
    "the courier got lost",
)

NEUTRAL = (
    "I bought [the {item}|it] {when}",
    "[this is about order|my number is|it concerns order|order] {number}",
    "it is a present for my {person}",
    "I have [been a customer|bought from you] for years",
    "this is the [second|third] time I write",
    "I [rang|wrote to] you {when}",
    "my {person} [chose|ordered] it",
    "I paid {amount} [by card|for it]",
)
OPENERS = (
    "hi|hello|good morning|hey there|hi team|dear all|excuse me|sorry to bother you|quick question|"
    "ok so|right|good evening|hi again|hello shop people|one thing|listen"
)
CLOSERS = (
    "thanks|please help|can someone look into it|regards {name}|cheers|please advise|asap please|"
    "thank you|{name}|many thanks {name}|hope you can tell me|have a nice day|"
    "waiting for your answer|best wishes"
)
BUT = "but|however,|yet|only|but now"
