"""The type checker that tests run Thalweg under: beartype, with int accepted where float is asked (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
