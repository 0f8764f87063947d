"""The method reference: a page for each method, from its declaration alone.

``python -m mergesafe.methods.reference.write`` writes the pages of the documentation;
``mergesafe methods NAME`` shows one.
"""
