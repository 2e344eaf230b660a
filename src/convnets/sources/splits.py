"""Which words stand for which split."""

import json
import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from convnets.base.console import InputError

_WORDS = {
    "train": "train training entrenamiento entraînement apprentissage treino treinamento "
    "addestramento обучение 训练 訓練 学習 훈련 학습",
    "validation": "val valid validation dev validación validação validazione validierung "
    "проверка 验证 驗證 検証 검증",
    "test": "test testing prueba pruebas essai teste prova тест 测试 測試 テスト 테스트 시험",
}
# Words that people put around the name of a split: `seg_train`, `TestSet`, `Training Data`.
FILLERS = ("set", "seg", "data", "dataset", "images", "imgs", "split")
SHOWN = 4  # words that a message names


def plain(text: str) -> str:
    """Return a name without capitals and accents, in one Unicode form."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(each for each in letters if not unicodedata.combining(each))


SPLITS = {plain(word): split for split, words in _WORDS.items() for word in words.split()}
_WORD = "|".join(sorted(SPLITS, key=len, reverse=True))
_FILLER = f"(?:{'|'.join(FILLERS)})*"
_SPLIT = re.compile(f"{_FILLER}({_WORD}){_FILLER}")


def split_of(word: str, said: Mapping[str, str] | None = None) -> str | None:
    """Return the split that a word stands for, if it does.

    Args:
        word: a folder's name, or a value of a table.
        said: more words, or other meanings of the known ones, as `data.splits` has them.
    """
    of_user = {plain(known): split for known, split in (said or {}).items()}
    found = _SPLIT.fullmatch(re.sub(r"[\W\d_]+", "", plain(word)))
    return of_user.get(plain(word)) or (SPLITS[found[1]] if found else None)


def meanings(words: Collection[str], said: Mapping[str, str] | None) -> dict[str, str | None]:
    """Return the split for which each word stands, by itself or beside the others.

    `birds_train` and `birds_test` are one stem and a split's word each. If no word is known by
    itself, all may also have different stems.
    """
    meant = {word: split_of(word, said) for word in words}
    hidden = {word: re.search(_WORD, plain(word)) for word in words}
    any_stem = not any(meant.values()) and all(hidden.values())
    alike: dict[str, dict[str, str]] = defaultdict(dict)
    for word, found in hidden.items():
        if found:
            stem = "" if any_stem else found.re.sub("*", found.string, count=1)
            alike[stem][word] = SPLITS[found[0]]
    for group in alike.values():
        if len(set(group.values())) > 1:
            meant |= {word: meant[word] or split for word, split in group.items()}
    return meant


def splits_of(
    words: Collection[str], said: Mapping[str, str] | None, where: str = ""
) -> dict[str, str]:
    """Return the split for which each word stands, where nothing but splits is expected.

    Raises:
        InputError: a word is none that is known. The message begins with `where`.
    """
    meant = meanings(words, said)
    unknown = sorted(word for word, split in meant.items() if split is None)
    if unknown:
        raise InputError(
            f"{where}{listed(unknown)} is no split that is known; {remedy(unknown)}, or leave "
            "it out"
        )
    return {word: split for word, split in meant.items() if split}


def remedy(words: Iterable[str]) -> str:
    """Return a clause that says how the user says what words mean."""
    said = json.dumps(dict.fromkeys(sorted(words)[:SHOWN], "test"), ensure_ascii=False)
    return f"set data.splits (--splits), such as to {shlex.quote(said)}"


def listed(words: Iterable[str]) -> str:
    """Return the first of some words, for a message."""
    return ", ".join(map(repr, sorted(words)[:SHOWN]))
