import csv
import random
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scoring.captions import drop_punctuation, sanitise
from bench.scoring.java import Deadline, Tokenizer, find_java
from bench.scoring.ptb import tokenize

FLICKR8K = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-captions-all.txt"
needs_flickr8k = pytest.mark.skipif(not FLICKR8K.is_file(), reason="the captions of Flickr8k are not here")
EXAMPLES = {
    "A man can't ride; he cannot.": "a man ca n't ride ; he can not .",
    "They're gonna see James' and the T-shirt": "they 're gon na see james ' and the t-shirt",
    "Mr. O'Neil left at 5:30 p.m. (late)": "mr. o'neil left at 5:30 p.m. -lrb- late -rrb-",
    "$1,000.50, £5, 2½ or 10%": "$ 1,000.50 , # 5 , 2 1/2 or 10 %",
    "It’s a <unk>… 😀 na\u00efve\u00a0caf\u00e9": "it 's a <unk> ... naïve café",
    "co\u00adop 1 1/2 AT&T www.a.com/bc.": "coop 1\u00a01/2 at&t www.a.com/bc .",
    "\t\u3000😀": "",
    "": "",
}
HARD = """\
A man can't ride the horse because it doesn't want him to.
The dogs won't stop; they're barking, aren't they?
He said he'd've come if he could've.
Cannot see it? You cannot, they CANNOT.
They're gonna jump, I wanna watch, we gotta go.
Lemme see! Gimme the ball.
'Tis a dog, 'twas a cat.
More'n ten people and d'ye see them?
I'M HERE AND HE'S THERE, DON'T ASK
y'all come back, y'know
The dog's bone and the dogs' bones
James' hat, Jesus's robe, the Joneses' car
The boys' and girls' team
A '90s car and an '80s haircut from the 1970s
In the 1990's people wore 80s clothes
'Cause they like 'em big
Rock 'n' roll, rock'n'roll and drum'n'bass
Fish 'n chips at 5 o'clock
Singin' in the rain with goin' fishin'
O'Brien, D'Angelo, L'Oreal and d'Artagnan
c'mon ma'am, ne'er say never, e'er
hors d'oeuvres and a coup d'état
int'l gov't ass'n nat'l
A well-known mother-in-law in a black-and-white dress
A T-shirt, a t-shirt, a V-neck and an X-ray
A 3-D movie, a 3D movie and 3-year-old twins
a two- or three-year-old
A semi- circle, -foot tall, half -eaten
A man--tall--walks ---- away
pre-WWII U.S.-based anti-U.S. non-E.U.
A re-election on-the-go take-away drive-thru
a Coca-Cola-sponsored race
1,000 people and 2,500,000 birds
3.14 metres by 2.5m, .5 km, 0.75 miles
1/2 a pizza, 3/4 cup, 2 1/2 years, 10 1/2 feet
½ of it, 2½ men, ¾ cup, ⅓ full
A 5'10" man with a 6' board and a 12" ruler
10% off, 50%-off, 5 %
$5, $5.00, $1,000,000, US$20, $.99 and $5million
£10 or €20 or 5¢ or 50€
¥100 and 100 ₤
A -5 degree day, +3, 90°F or 30 °C
5:30pm, 10:00 a.m., 12:15 PM and 6 p.m.
5-6pm, 9am-5pm, from 9-5
12/25/2003, 2003-12-25, 25.12.2003 and 7/4
1st, 2nd, 3rd, 4th and 21st place
No. 5, no. 23 and #1 and number 7.
Player no. twelve; say no. He left.
He is #1! Jersey #23 and # 45
4x4 truck, 2x4 boards, a 10x zoom
5ft., 10 lbs., 6 oz. and 3 in.
60mph, 10km, 5kg, 8gb, 100m
2-0 win, 3-2 loss, a 50/50 chance, open 24/7
Call 555-1234 or 1-800-555-1234
Call (650) 723-4242 now
650 723 4242 is the number
Numbers 10 20 30 on shirts
1, 2, 3... go!
Route 66, Boeing 747, PS3, mp3, B2B, R2-D2 and C-3PO
Mr. Smith and Mrs. Jones met Dr. Who and Ms. Lee.
St. Patrick's Day on Main St. near Mt. Rainier
Prof. X, Gen. Lee, Sgt. Pepper, Capt. Hook, Lt. Dan
Martin Luther King, Jr. spoke. John Sr. and Jr.
Apple Inc. and Ford Motor Co. vs. Sony Corp.
He has a Ph.D. and an M.D.
The U.S. team, the U.S.A. and the U.K. flag
u.s. flag and u.k. flag, n.y.c. street
Washington D.C. and L.A. at night
J. K. Rowling, J.R.R. Tolkien and George W. Bush
cats, dogs, etc. are here, etc., etc
e.g. a dog, i.e. a canine; cf. cat vs cat
Jan. 5, Feb. 10, Sept. 1 and Oct. 31
Mon. and Tues. but not wed.
Approx. five, max. ten, min. two, est. 1990
5th Ave. and Sunset Blvd. at Elm Rd.
Calif. and Mass. and Tex. but not mass. or wash.
A man waits... and waits.... and waits.....
Wait . . . what .. now
What?! No!! Yes!!! Really??
wait…what… now
A dog ,a cat ;a bird :a fish
dog,cat,bird;fish:cow
A dog.A cat.The bird
a dog!a cat?a bird
dogs.,cats and birds.; cows.: pigs
End of it.
End of it .
no full stop
"A quoted caption."
He said "hello there" to "her".
He said, 'hello there,' and left.
'single' "double" `back` ``latex'' ''both''
“Curly quotes” and ‘single curly’ ones
It’s a dog’s life, don’t you think? They’re here. I’d go.
’twas the dogs’ fault
« guillemets » and ‹ single ›
A sign says "STOP".
A sign that reads 'No Parking'
"It's" 'it's' "dogs'" (dog's)
A man (left) and a woman (right).
(A man) [a woman] {a child}
[UNK] {unk} (unk)
((nested) brackets)
a(b)c[d]e{f}g
<unk> dog <unk>.
<start> a dog <end> <pad>
<UNK> and <unk>'s <unk>-<unk>
a <b>bold</b> dog <br/> and <br />
<a href="x.html">link</a>
<s> a dog </s>
a < b and c > d, <3
<< quoted >> and 5<6
and/or his/her he/she w/o w/ a hat
black/white/brown dog
a/b/c/d
AC/DC and 9/11 and km/h
A road / a street
back\\slash and pipe|pipe
AT&T and R&B and Q&A and H&M's
Tom & Jerry, rock&roll, B & B
Tom &amp; Jerry &lt;3 &quot;dog&quot; &gt;
dog&nbsp;cat don&apos;t
See http://www.example.com/foo?bar=1&baz=2.
Visit www.example.com, or example.com today
(https://example.org/a_b-c.html)
HTTP://EXAMPLE.COM/INDEX.HTML
flickr.com/photos/123 and youtube.com
Mail john.doe@example.com or foo@bar.co.uk.
mailto:a@b.com
@username and #hashtag and #dog2
IMG_1234 and snake_case_words and __init__
file.txt and photo.jpg and index.html
a café, a naïve façade, crème brûlée, jalapeño
Ünïcödé Straße Ångström Øre Æsop
日本 の 猫 and 中文字 and 한국어
русский язык, ελληνικά ΣΑΣ
עברית العربية हिन्दी
日本、中国。
¿Qué? ¡Hola!
ﬁsh ﬂoat
cafe\u0301 decomposed
😀 a dog 🐶 runs 👍🏽
dog😀cat❤️bird
a ★ star ♥ heart → arrow ✓ check
™ ® © ° § ¶ † ‡ • ·
soft\u00adhyphen and \u00ad alone
non\u00a0breaking\u00a0space thin\u2009space wide\u3000space
zero\u200bwidth zero\u200djoiner \ufeffbom
\u202aembedded\u202c
a – b — c ― d a–b a—b
2003–2004 pp. 5–6
a‐b a‑b a−b
- - -- dash - start
-a dog- -cat-
* star ** stars *bold* _under_ ~tilde~
a+b A+B C++ a=b a^b
5+5=10, 2*3, 5-3, 10/2
% $ # @ & ^ ~ ` | \\
:) :-) ;) :( :-( :D :P =)
a happy dog :) and a sad one :(
^_^ >_< -_- T_T o_o
<3 </3 xD XD
-> --> <- => <=>
!!! ??? ... --- ___ *** ###
''''' "" `````
. , ; : ! ? -
.
a
I
I.
A.
A B C
A. B. C.
vitamin C, plan B, a letter A
vitamin c. and plan b. too
x. y. z.
ALL CAPS CAPTION WITH DOG'S BONE
MiXeD CaSe McDonald's iPhone eBay
THE U.S.A. AND MR. T. CAN'T
5
5.
5,
.5
1,2,3
1.2.3
a1 1a a1b 1a1
5a. 5a, a5.
the 5-foot-10 man's 2-year-old's toy
1990s-style '50s-style mid-'90s
man's-best-friend bird's-eye-view
well-they're half-don't
o'clock-ish five-o'clock o'neil-smith
x-y-z a-b-c. a-b, a-b; a-b:
jack-o'-lantern jack-o-lantern
will-o'-the-wisp
merry-go-round see-saw teeter-totter
ice-cream-cone .
two(2) three[3]
"(quoted)" ("bracketed") '(single)'
dog"cat dog'cat dog`cat
it''s it``s
don''t don`t don´t dont'
n't 's 're 'll 've 'd 'm
can 't do n't it 's they 're
wo n't ca n't gon na
-lrb- dog -rrb- -LRB- cat -RRB-
...dog dog... ...
..dog dog..
a. b
a.b a.b.c a.b.c.
a.m p.m a.m. p.m. A.M. P.M.
am pm AM PM 5am 5 am
5a.m. 5A.M. 5:30a.m.
3 p.m., 4 p.m.; 5 p.m.!
etc.) (etc.) "etc." etc.!
Inc., Inc.) Jr.'s U.S.'s
Mr.Smith Dr.Jones St.John
Mr Smith and Dr Jones in St Louis
co. ltd. dept. bldg. apt. ave. rd. ln.
ft. lb. lbs. oz. in. cm. mm. hr. min. sec.
al. mar. sun. sat. jan. dec. may. jun.
al fresco mar sun sat no fig art op
fig. 3, art. 5, pp. 10, ca. 1900
fig. tree art. class no. dog
w/ a dog w/o a cat b/w photo
A dog's, cat's & bird's
3's a crowd, A's and B's, 1's and 0's
It's 5'6 tall, 5' 6" tall, 5 ' 6 " tall
"5" '5' (5) [5] {5}
$ 5 $5 5$ $$ $$$ a$ A$
a#b #a# #1a C# F#
a@b a @ b @@ a@
100% 100 % %100 100%.
½cup 1½" 1 ½ cups
1⁄2 cup
dog   cat\t bird    fish\x20\x20\x20
   leading spaces
trailing spaces\x20\x20\x20
a man , a dog , and a cat .
Two young guys with shaggy hair look at their hands while hanging out in the yard .
A man in an orange hat starring at something
Five people wearing winter jackets and helmets stand in the snow , with snowmobiles in the background .
A child playing " football " with a dog 's toy .
Skateboarder 's legs , he ca n't stop .
"""
ODD = """' ’ " “ ” - -- – … ... . , ! ? : ; / & ( ) [ ] 5 10 $5 % # 's n't 're s' U.S. Mr. etc. st. no. 3-D T-shirt A O'
é ñ 日 😀 <unk> @ * + 1/2 ½ 'n' can't cannot gonna I'm 'em o'clock a.m. 5:30 1,000 2.5 _ ~ = ^ | ` ° £ € ™"""
WORDS = "a the dog dogs man runs well-known t-shirt and/or 3-year-old 1,000 2.5 café 日本 , . ; ! ? -- ' ''"


def words_by_java(lines: Sequence[str]) -> list[str]:
    """What the real tokenizer leaves, each line followed by another so that none sees what comes next."""
    with closing(Tokenizer(find_java())) as tokenizer:
        apart = [part for line in lines for part in (line, "dog")]
        return [drop_punctuation(line) for line in tokenizer.tokenize(apart, deadline=Deadline(300))[::2]]


def words(lines: Sequence[str]) -> list[str]:
    return [drop_punctuation(line) for line in tokenize(lines)]


def flickr8k() -> list[str]:
    with FLICKR8K.open(encoding="utf-8", newline="") as file:
        captions = [sanitise(row["caption"]) for row in csv.DictReader(file)]
    return random.Random(8).sample(captions, 5000)


def with_odd_pieces(caption: str, draw: random.Random) -> str:
    for _ in range(draw.choice((1, 1, 2, 3))):
        place, piece = draw.randrange(len(caption) + 1), draw.choice(ODD.split())
        space = caption.find(" ", place)
        if space >= 0 and draw.random() < 0.5:
            place = space
        left, right = draw.choice(("", " ")), draw.choice(("", " "))
        caption = caption[:place] + left + piece + right + caption[place:]
    return caption


@pytest.mark.java
def test_hard_lines_have_the_words_of_the_real_tokenizer():
    lines = HARD.splitlines()
    assert len(lines) >= 200
    assert dict(zip(lines, words(lines), strict=True)) == dict(zip(lines, words_by_java(lines), strict=True))


@pytest.mark.java
@needs_flickr8k
def test_captions_have_the_words_of_the_real_tokenizer():
    lines = flickr8k()
    assert words(lines) == words_by_java(lines)


@pytest.mark.java
@needs_flickr8k
def test_captions_written_without_spaces_and_with_odd_pieces_nearly_always_have_them():
    draw = random.Random(9)
    lines = [re.sub(r" (?='s|n't|[.,!?;:'])", "", line) for line in flickr8k()]
    lines = [with_odd_pieces(line, draw) for line in lines]
    equal = [ours == theirs for ours, theirs in zip(words(lines), words_by_java(lines), strict=True)]
    assert sum(equal) / len(equal) >= 0.998


@pytest.mark.parametrize(("line", "tokens"), EXAMPLES.items())
def test_examples_have_these_tokens_without_java(line, tokens):
    assert tokenize([line]) == [tokens]


@pytest.mark.java
def test_examples_have_these_tokens_with_java():
    with closing(Tokenizer(find_java())) as tokenizer:
        answers = tokenizer.tokenize(list(EXAMPLES), deadline=Deadline(300))
    assert [answer.rstrip() for answer in answers] == list(EXAMPLES.values())


@given(st.lists(st.text() | st.text("aA1.,'’-/<>@&:() \n\u2028\x1c\u1680").map("<a ".__add__)))
def test_every_line_has_one_answer_on_one_line_whatever_stands_beside_it(lines):
    answers = tokenize(lines)
    assert len(answers) == len(lines)
    assert all(len(answer.splitlines()) <= 1 for answer in answers)
    assert all(" ".join(answer.split()) == answer.replace("\u00a0", " ") for answer in answers)
    assert answers == [answer for line in lines for answer in tokenize([line])]


@given(st.lists(st.sampled_from(WORDS.split())))
def test_words_and_punctuation_that_stand_apart_stay_as_they_are(tokens):
    line = " ".join(tokens)
    assert tokenize([line]) == [line]


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1))
def test_letters_are_kept_and_a_second_pass_changes_nothing(word):
    (once,) = tokenize([word])
    assert once.replace(" ", "") == word
    assert tokenize([once]) == [once]


UNITS = "a . ' ( : 1 é 1, a. a, a' aa' a- a_ a@ 1/ 1: <a <!- ab.. 5a. jr. an't http:// http://a. www. A&"


@pytest.mark.parametrize("unit", [*UNITS.split(), "<a ", "<a b=", '<a="', "12 ", "1 1/", "\u00a0", "😀"])
def test_a_line_of_a_hundred_thousand_characters_keeps_its_letters_and_comes_to_an_end(unit):
    line = (unit * 100_000)[:100_000]
    for start, end in (("", ""), ("<", " b@")):
        (answer,) = tokenize([start + line + end])
        given, kept = (re.sub(r"[\W_]|lrb", "", text) for text in (start + line + end, answer))
        assert given.lower() == kept
