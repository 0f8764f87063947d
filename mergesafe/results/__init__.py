"""What commands write as JSON and other commands read: one msgspec struct for each kind of file.

:mod:`~mergesafe.results.evaluation`, :mod:`~mergesafe.results.gate`,
:mod:`~mergesafe.results.vet`, :mod:`~mergesafe.results.similarity`,
:mod:`~mergesafe.results.tuning` and :mod:`~mergesafe.results.data_card` say what the files hold;
their fields stand in the order in which they are written. :mod:`~mergesafe.results.writing` makes
JSON of them, and :mod:`~mergesafe.results.reading` reads it back, whoever wrote it.

A struct that is made, by a command or from a file, holds what a measurement can give: numbers are
finite and in their range, intervals hold their values, and no verdict contradicts what it is drawn
from. Every field that is written is required; one that a later version adds gets a default, and
fields that are not known are passed over, so that a newer file can be read as far as it is known.
"""
