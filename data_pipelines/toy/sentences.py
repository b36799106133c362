"""What is said: sentences rich in m, b, p, f, v, o, u and a.

English sentences come from a small grammar that has millions of them; one in
eight, picked by a hash of its words, is held out of training.
"""

import hashlib
import random

_HELD_OUT_SHARE = 8

_NAMES = (
  "Bob", "Mum", "Papa", "Fabian", "Ava", "Omar", "Eva", "Pam", "Bruno", "Amy",
  "my father", "my mother", "our baker", "the farmer", "a famous poet",
  "the mayor", "my brother", "your cousin",
)  # fmt: skip
_ADJECTIVES = (
  "big", "blue", "brown", "happy", "funny", "warm", "purple", "modern",
  "muddy", "fabulous", "marvellous", "open", "broken", "small", "velvet",
  "foamy", "pompous", "bumpy", "simple", "beautiful",
)  # fmt: skip
_NOUNS = (
  "boat", "paper", "apple", "map", "bamboo", "piano", "puppy", "ferry",
  "violin", "mop", "bubble", "camera", "tomato", "potato", "balloon", "moon",
  "bottle", "mushroom", "elephant", "pumpkin", "coffee", "van", "boot",
  "umbrella", "robot", "broom", "panda", "plum", "room", "poem",
)  # fmt: skip
_PAST = (
  "bought", "moved", "found", "painted", "forgot", "saved", "pushed", "opened",
  "followed", "borrowed", "picked up", "threw away", "remembered", "fed",
  "photographed", "wrapped up", "dropped", "improved",
)  # fmt: skip
_VERBS = (
  "move", "open", "buy", "paint", "find", "love", "borrow", "make", "save",
  "bring", "follow", "cook", "push", "prefer",
)  # fmt: skip
_PLACES = (
  "above the cabin", "over the moon", "behind the barn", "in the bathroom",
  "at the farm", "before supper", "by the harbour", "from Panama",
  "on the roof", "under the bamboo", "for a whole month", "in the afternoon",
  "on the empty beach", "near the old bookshop", "after the opera",
)  # fmt: skip
_REMARKS = (
  "maybe", "of course", "my friend", "by the way", "you know", "believe me",
  "oh boy", "above all",
)  # fmt: skip
_PATTERNS = (
  "{name} {past} my {adj} {noun} {place}.",
  "{name} and {name} {past} a {adj} {noun}, and {past} the {noun} {place}.",
  "{remark}, we {verb} a {adj} {noun} {place}.",
  "Above all, {name} {past} five {adj} {noun}s.",
  "Do you {verb} the {adj} {noun}, or a {noun} {place}?",
  "I hope {name} {past} both, the {noun} and the {adj} {noun}.",
  "No, {name} never {past} a {noun} {place}, but {name} {past} mine.",
  "Who {past} my {noun}? Maybe {name}, {place}.",
  "You {verb} my {noun}, {remark}, and I {verb} your {adj} {noun}.",
  "Please {verb} the {noun}, {name}, before you {verb} a {adj} {noun}.",
  "{remark}, the {noun} {place} was {adj} and {adj}.",
  "We {verb}, we {verb}, and {place} we {verb} a {noun}.",
)

MANDARIN = (
  "你好，我们今天去公园。",
  "妈妈买了八个苹果，爸爸买了面包。",
  "朋友们都喜欢喝茶。",
  "请帮我把报纸放在桌子上。",
  "我的猫跑到房子后面去了。",
  "明天晚上我们一起吃饭吧。",
  "这本书非常有意思，我看了三遍。",
  "他每天早上跑步，也打篮球。",
  "外面下雨了，别忘了带雨伞。",
  "北方的冬天比南方冷得多。",
  "妹妹不怕狗，但是怕虫子。",
  "飞机马上就要起飞了，快一点。",
  "爷爷在门口放了一把木头椅子。",
  "奶奶做的包子很好吃，我吃了五个。",
  "昨天我们爬山，看到很多白花。",
  "那个漂亮的瓶子是谁的？",
  "弟弟画了一幅画，送给老师。",
  "我不明白，麻烦你再说一遍。",
  "火车票多少钱，你知道吗？",
  "大家慢慢说，不要忙。",
  "我买房子的时候，没有看地图。",
  "窗户开着，风把报告吹跑了。",
  "朋友给我发了八张照片。",
  "小明骑摩托车去买蘑菇。",
  "我们班里有四十个学生。",
  "妈妈，门外有人找你。",
  "葡萄和苹果，你爱吃什么？",
  "月亮出来了，湖水很亮。",
  "跑得快的马不怕路远。",
  "他说普通话说得非常好。",
)


def english(rng: random.Random, *, held_out: bool) -> str:
  """Return a sentence that is (or is not) kept out of training."""
  while True:
    sentence = _sentence(rng)
    if is_held_out(sentence) == held_out:
      return sentence


def mandarin(rng: random.Random) -> str:
  """Return a sentence in a language that training never hears."""
  return rng.choice(MANDARIN)


def is_held_out(sentence: str) -> bool:
  """Return whether an English sentence belongs to the test set."""
  digest = hashlib.sha256(sentence.encode()).digest()
  return digest[0] % _HELD_OUT_SHARE == 0


def _sentence(rng: random.Random) -> str:
  words = {
    "name": _NAMES,
    "adj": _ADJECTIVES,
    "noun": _NOUNS,
    "past": _PAST,
    "verb": _VERBS,
    "place": _PLACES,
    "remark": _REMARKS,
  }
  text = rng.choice(_PATTERNS)
  for slot, options in words.items():
    marker = "{" + slot + "}"
    fresh = rng.sample(options, text.count(marker))
    for word in fresh:
      text = text.replace(marker, word, 1)
  return text[0].upper() + text[1:]
