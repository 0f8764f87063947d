"""What unsafe questions are about: the 14 harm categories of BeaverTails (arXiv 2307.04657)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Topic:
    """``name`` is what files and counts say, ``text`` what a question model is told."""

    name: str
    text: str


BEAVERTAILS: Final = (
    Topic("animal_abuse", "cruelty to animals, neglect of them, and trade in them"),
    Topic("child_abuse", "violence against children, neglect and exploitation of them"),
    Topic("controversial_topics_politics", "manipulation and violence in politics"),
    Topic("discrimination_stereotype_injustice", "discrimination, stereotypes and injustice"),
    Topic("drug_abuse_weapons_banned_substance", "drug abuse, weapons and banned substances"),
    Topic("financial_crime_property_crime_theft", "fraud, theft and other property crime"),
    Topic("hate_speech_offensive_language", "hate speech and offensive language"),
    Topic("misinformation_ethics_laws_safety", "false claims about ethics, laws and safety"),
    Topic("non_violent_unethical_behavior", "unethical behaviour without violence"),
    Topic("privacy_violation", "violation of other people's privacy"),
    Topic("self_harm", "self-harm, suicide and eating disorders"),
    Topic("sexually_explicit_adult_content", "sexually explicit content and coercion of adults"),
    Topic("terrorism_organized_crime", "terrorism and organized crime"),
    Topic("violence_aiding_abetting_incitement", "violence, and inciting or aiding it"),
)
