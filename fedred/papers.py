"""Papers as values: shown in one line, cited in BibTeX. Those that several files cite stand below."""

import re
from dataclasses import dataclass
from typing import Literal

VENUE_FIELD = {"inproceedings": "booktitle", "article": "journal", "misc": "howpublished"}


@dataclass(frozen=True)
class Paper:
    """One publication.

    Args:
        short: how lists and tables name it, for instance `Blanchard et al., NIPS 2017`.
        authors: in BibTeX's form, `Last, First and Last, First`.
        title, venue, year: as printed on it.
        kind: BibTeX's type of entry.
    """

    short: str
    authors: str
    title: str
    venue: str
    year: int
    kind: Literal["inproceedings", "article", "misc"] = "inproceedings"

    @property
    def key(self) -> str:
        """First author, year and first word of the title, for instance `xie2024fedredefense`."""
        surname = re.sub(r"[^a-z]", "", self.authors.split(",")[0].lower())
        word = re.sub(r"[^a-z]", "", self.title.lower().split()[0].split("-")[0])
        return f"{surname}{self.year}{word}"

    @property
    def bibtex(self) -> str:
        """The BibTeX entry; double braces keep the capitals of the title."""
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            VENUE_FIELD[self.kind]: self.venue,
            "year": str(self.year),
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}"])


FEDREDEFENSE = Paper(
    "Xie, Fang, Gong, ICML 2024",
    "Xie, Yueqi and Fang, Minghong and Gong, Neil Zhenqiang",
    "FedREDefense: Defending against Model Poisoning Attacks for Federated Learning "
    "using Model Update Reconstruction Error",
    "International Conference on Machine Learning",
    2024,
)
MCMAHAN = Paper(
    "McMahan et al., AISTATS 2017",
    "McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth "
    'and Ag{\\"u}era y Arcas, Blaise',
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    "International Conference on Artificial Intelligence and Statistics",
    2017,
)
BLANCHARD = Paper(
    "Blanchard et al., NIPS 2017",
    "Blanchard, Peva and El Mhamdi, El Mahdi and Guerraoui, Rachid and Stainer, Julien",
    "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    "Advances in Neural Information Processing Systems",
    2017,
)
SHEJWALKAR = Paper(
    "Shejwalkar and Houmansadr, NDSS 2021",
    "Shejwalkar, Virat and Houmansadr, Amir",
    "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses "
    "for Federated Learning",
    "Network and Distributed System Security Symposium",
    2021,
)
KARIMIREDDY_BUCKETING = Paper(
    "Karimireddy, He, Jaggi, ICLR 2022",
    "Karimireddy, Sai Praneeth and He, Lie and Jaggi, Martin",
    "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    "International Conference on Learning Representations",
    2022,
)
FANG = Paper(
    "Fang et al., USENIX Security 2020",
    "Fang, Minghong and Cao, Xiaoyu and Jia, Jinyuan and Gong, Neil Zhenqiang",
    "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning",
    "USENIX Security Symposium",
    2020,
)
BAGDASARYAN = Paper(
    "Bagdasaryan et al., AISTATS 2020",
    "Bagdasaryan, Eugene and Veit, Andreas and Hua, Yiqing and Estrin, Deborah "
    "and Shmatikov, Vitaly",
    "How To Backdoor Federated Learning",
    "International Conference on Artificial Intelligence and Statistics",
    2020,
)
TOLPEGIN = Paper(
    "Tolpegin et al., ESORICS 2020",
    "Tolpegin, Vale and Truex, Stacey and Gursoy, Mehmet Emre and Liu, Ling",
    "Data Poisoning Attacks Against Federated Learning Systems",
    "European Symposium on Research in Computer Security",
    2020,
)
YIN = Paper(
    "Yin et al., ICML 2018",
    "Yin, Dong and Chen, Yudong and Kannan, Ramchandran and Bartlett, Peter",
    "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    "International Conference on Machine Learning",
    2018,
)
LI_SILOS = Paper(
    "Li, Diao, Chen, He, ICDE 2022",
    "Li, Qinbin and Diao, Yiqun and Chen, Quan and He, Bingsheng",
    "Federated Learning on Non-IID Data Silos: An Experimental Study",
    "International Conference on Data Engineering",
    2022,
)
