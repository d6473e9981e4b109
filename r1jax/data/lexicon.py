"""Small tables that the general requests are made from: facts, names, and words in English and Spanish."""

from __future__ import annotations

from itertools import pairwise

NAMES = tuple("Ana Ben Carla David Elena Felix Greta Hugo Ines Jonas Kira Luis Marta Nico Olga Pablo Rosa Tom".split())

CAPITALS = {
    "Argentina": "Buenos Aires", "Austria": "Vienna", "Belgium": "Brussels", "Canada": "Ottawa", "Chile": "Santiago",
    "China": "Beijing", "Colombia": "Bogota", "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo",
    "Finland": "Helsinki", "France": "Paris", "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest",
    "Iceland": "Reykjavik", "India": "New Delhi", "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo",
    "Kenya": "Nairobi", "Mexico": "Mexico City", "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Romania": "Bucharest", "Spain": "Madrid", "Sweden": "Stockholm", "Turkey": "Ankara",
}  # fmt: skip
LEGS = {"a cat": "four", "a spider": "eight", "a bird": "two", "an ant": "six", "a horse": "four", "a snake": "none",
        "a bee": "six", "a human": "two", "a dog": "four", "a fish": "none"}  # fmt: skip

_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday Monday".split()
_MONTHS = "January February March April May June July August September October November December January".split()
_SEASONS = "spring summer autumn winter spring".split()
ORDER = {first: second for row in (_DAYS, _MONTHS, _SEASONS) for first, second in pairwise(row)}

_PAIRS = (
    "hot cold, big small, old young, fast slow, light dark, high low, open closed, early late, full empty, wet dry, "
    "hard soft, near far, rich poor, clean dirty, long short, loud quiet, thick thin, left right"
)
OPPOSITES = {a: b for pair in _PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}

NOUNS = {  # English -> (Spanish, whether it is feminine)
    "house": ("casa", True), "dog": ("perro", False), "table": ("mesa", True), "book": ("libro", False),
    "door": ("puerta", True), "car": ("coche", False), "flower": ("flor", True), "tree": ("árbol", False),
    "chair": ("silla", True), "cat": ("gato", False), "window": ("ventana", True), "boat": ("barco", False),
    "apple": ("manzana", True), "bread": ("pan", False), "shirt": ("camisa", True), "hat": ("sombrero", False),
    "street": ("calle", True), "train": ("tren", False), "moon": ("luna", True), "river": ("río", False),
}  # fmt: skip
ADJECTIVES = {  # English -> Spanish, masculine
    "red": "rojo", "white": "blanco", "black": "negro", "small": "pequeño", "new": "nuevo", "old": "viejo",
    "green": "verde", "blue": "azul", "big": "grande", "pretty": "bonito", "clean": "limpio", "yellow": "amarillo",
    "cheap": "barato", "tall": "alto", "short": "corto", "cold": "frío",
}  # fmt: skip
