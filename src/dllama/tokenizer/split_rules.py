"""Where byte-level vocabularies cut text before they merge: the models' own patterns.

A GGUF file names its rule (`tokenizer.ggml.pre`). Names and what they stand for: llama.cpp, src/llama-vocab.cpp
(github.com/ggml-org/llama.cpp), and the tokenizer.json files of the models, whose patterns are taken where they say it
in fewer words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Each of the `patterns` cuts what the one before it left: its matches are words, and so is what lies between.

    `keeps_words`: a word that is a token is this token, whatever would merge. `composes`: text becomes Unicode's NFC
    first. `adds_first`: a text begins with the first token, where a file does not say.
    """

    patterns: tuple[str, ...]
    keeps_words: bool = False
    composes: bool = False
    adds_first: bool = False


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _any_of(*patterns: str) -> str:
    return "|".join(patterns)


def _words(digits: str, *, contraction: str = _CONTRACTION) -> str:
    return _any_of(contraction, _LETTERS, digits, _SIGNS, _SPACE)


def _words_by_case(
    digits: str, *, ending: str = f"{_CONTRACTION}?", but: str = "", after_signs: str = r"[\r\n/]*"
) -> str:
    """A word goes on from capitals to small letters, not back."""
    capital, small = (rf"[\p{{{kind}}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]" for kind in (r"Lu}\p{Lt", "Ll"))
    before = r"[^\r\n\p{L}\p{N}]?"
    return _any_of(
        f"{before}{capital}*{small}+{ending}",
        f"{before}{capital}+{small}*{ending}",
        digits,
        rf" ?[^\s\p{{L}}\p{{N}}]+{after_signs}",
        _SPACE,
    )


def _words_with_marks(signs: str) -> str:
    """A sign goes with the Latin word that follows it."""
    return _any_of(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        signs,
        r"\s+(?!\S)|\s+",
    )


_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BY_ONE, _BY_THREE = r"\p{N}", r"\p{N}{1,3}"
_THREE_FROM_THE_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_DEEPSEEK_3 = _words_with_marks(r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+")
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


def _class(ranges: str) -> str:
    """The characters of `ranges`, which are given by their numbers: editors and normal forms change some of them."""
    ends = [[chr(int(number, 16)) for number in run.split("-")] for run in ranges.split()]
    return f"[{''.join('-'.join(run) for run in ends)}]"


_CASED_LETTERS = _class(
    "0041-005A 0061-007A 00B5 00C0-00D6 00D8-00F6 00F8-01BA 01BC-01BF 01C4-0293 0295-02AF 0370-0373 0376 "
    "0377 037B-037D 037F 0386 0388-038A 038C 038E-03A1 03A3-03F5 03F7-0481 048A-052F 0531-0556 10A0-10C5 "
    "13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 "
    "1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 "
    "1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D "
    "212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A "
    "10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_KANA_AND_HAN = _class("4E00-9FA5 3040-309F 30A0-30FF") + "+"
_HAN_AND_HANGUL = _class("4E00-9FA5 0800-4E00 AC00-D7FF") + "+"
_SIGNS_OF_WIDTHS = _class("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002") + "+"
_SCRIPTS_WITHOUT_SPACES = (
    _class(
        "4E00-9FFF 3400-4DBF F900-FAFF 3040-309F 30A0-30FF FF65-FF9F 2F00-2FDF 0E40-0E7F 0E80-0EFF 1780-17FF 1000-109F"
        " AA60-AA7F A9E0-A9FF AC00-D7AF 1100-11FF"
    )
    + "+"
)
_YOUTU_SIGNS = _class("FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F") + "+"
_YOUTU_LETTERS = (
    _class("AC00-D7A3 3131-318E") + "+",
    _YOUTU_SIGNS,
    _class("3105-312F") + "+",
    _KANA_AND_HAN,
)

NONE = SplitRule(patterns=())
LLAMA_3 = SplitRule(patterns=(_words(_BY_THREE),), keeps_words=True, adds_first=True)
QWEN = SplitRule(patterns=(_words(_BY_ONE),), composes=True)
TEKKEN = SplitRule(patterns=(_words_by_case(_BY_ONE, ending=""),), keeps_words=True, adds_first=True)
STARCODER = SplitRule(patterns=(_BY_ONE, _GPT_2))
DEFAULT = SplitRule(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"))

_GPT_4O = SplitRule(patterns=(_words_by_case(_BY_THREE),))
_GPT_2_RULE = SplitRule(patterns=(_GPT_2,))
_DEEPSEEK_3_RULE = SplitRule(patterns=(_BY_THREE, _KANA_AND_HAN, _DEEPSEEK_3))
_BAILING = _any_of(
    r"'(?i:[sdmt]|ll|ve|re)", _LETTERS, _BY_ONE, r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]|\s+(?!\S)|\s+"
)

_RULES: tuple[tuple[SplitRule, str], ...] = (
    (DEFAULT, "default"),
    (LLAMA_3, "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (SplitRule(patterns=LLAMA_3.patterns), "dbrx smaug-bpe chatglm-bpe"),
    (SplitRule(patterns=LLAMA_3.patterns, keeps_words=True), "glm4"),
    (QWEN, "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2"),
    (SplitRule(patterns=QWEN.patterns), "hunyuan solar-open grok-2"),
    (TEKKEN, "tekken"),
    (STARCODER, "starcoder refact smollm codeshell exaone minerva-7b mellum2"),
    (dataclasses.replace(STARCODER, composes=True), "command-r"),
    (
        _GPT_2_RULE,
        "gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert exaone4 jais trillion granite-docling"
        " jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe",
    ),
    (dataclasses.replace(_GPT_2_RULE, composes=True), "mpt olmo"),
    (_GPT_4O, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (dataclasses.replace(_GPT_4O, keeps_words=True), "granite-embed-multi-97m"),
    (_DEEPSEEK_3_RULE, "deepseek-v3 hunyuan-dense joyai-llm hy_v4"),
    (
        SplitRule(
            patterns=(
                r"[\r\n]",
                rf"\s?{_CASED_LETTERS}+",
                rf"\s?{_SIGNS_OF_WIDTHS}",
                r"\s+$",
                _HAN_AND_HANGUL,
                r"\p{N}+",
            )
        ),
        "deepseek-llm",
    ),
    (
        SplitRule(patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, _BY_ONE)),
        "deepseek-coder",
    ),
    (SplitRule(patterns=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT_2, "[0-9][0-9][0-9]")), "falcon"),
    (SplitRule(patterns=(_BLOOM,)), "poro-chat bloom gpt3-finnish"),
    (SplitRule(patterns=(_BLOOM, _BY_ONE)), "viking"),
    (
        SplitRule(
            patterns=(
                _any_of(
                    _CONTRACTION,
                    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                    _BY_ONE,
                    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
                    _SPACE,
                ),
            ),
            composes=True,
        ),
        "qwen35",
    ),
    (
        SplitRule(
            patterns=(
                "<sentinel:[0-9]+>",
                "IMGIMG[A-I]{1,4}Z",
                r"[\t\n]|    |  ",
                _BY_ONE,
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT_2,
            ),
            adds_first=True,
        ),
        "chameleon",
    ),
    (SplitRule(patterns=(r"\p{N}+", r"(?=(\d{3})+(?!\d))")), "superbpe"),
    (SplitRule(patterns=(_BAILING,)), "bailingmoe bailingmoe2 llada-moe"),
    (
        SplitRule(
            patterns=(_any_of(_CONTRACTION, _LETTERS, _BY_ONE, r" ?[^\s\p{L}\p{N}\r\n]+", _SPACE),),
        ),
        "seed-coder",
    ),
    (
        SplitRule(
            patterns=(
                _any_of(
                    _CONTRACTION,
                    r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
                    _BY_ONE,
                    r" ?[^\s\p{L}\p{N}]+[\r\n/]?",
                    r"\s*[\r\n]|\s+(?!\S)|\s+",
                ),
            ),
        ),
        "exaone-moe",
    ),
    (
        SplitRule(
            patterns=(
                _any_of(
                    r"\p{Han}+",
                    _words_by_case(_BY_THREE, but=r"&&[^\p{Han}]", after_signs=r"[\r\n]*"),
                ),
            ),
        ),
        "kimi-k2",
    ),
    (SplitRule(patterns=(r"\d{1,3}(?=(?:\d{3})*\b)", _words_by_case(_BY_THREE))), "tiny_aya cohere2moe"),
    (
        SplitRule(
            patterns=(
                _THREE_FROM_THE_RIGHT,
                _SCRIPTS_WITHOUT_SPACES,
                _DEEPSEEK_3,
            ),
        ),
        "afmoe",
    ),
    (
        SplitRule(
            patterns=(
                _any_of(*_YOUTU_LETTERS),
                _words_by_case(_BY_ONE),
            ),
            keeps_words=True,
        ),
        "youtu",
    ),
    (SplitRule(patterns=(r"[^\n]+|[\n]+", _words(_BY_ONE))), "laguna"),
    (
        SplitRule(
            patterns=(
                _any_of(
                    _CONTRACTION,
                    _LETTERS,
                    _BY_THREE,
                    _SIGNS,
                    r"\s*[\r\n]+",
                    *(rf"\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")),
                    r"\s{1}",
                ),
            ),
        ),
        "jais-2",
    ),
    (
        SplitRule(
            patterns=(
                _BY_THREE,
                _KANA_AND_HAN,
                _words_with_marks(r" ?[\p{P}\p{S}]+|[\r\n]"),
                _BY_ONE,
            ),
        ),
        "spark2_5",
    ),
    (SplitRule(patterns=(_BY_THREE, _words(r"\p{N}+")), keeps_words=True), "minicpm5"),
    (SplitRule(patterns=(_any_of(_LETTERS, _BY_ONE, _SIGNS, _SPACE),)), "ufakzeka"),
)

BY_NAME: Mapping[str, SplitRule] = MappingProxyType(
    {name: rule for rule, names in _RULES for name in names.split()}
)
"""What `tokenizer.ggml.pre` may say."""
