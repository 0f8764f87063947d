"""One file per family of merge methods; :mod:`mergesafe.methods.registry` lists them.

They live apart from :mod:`mergesafe.methods` so that ``methods.linear`` is the function to call
and never the module that declares it.
"""
