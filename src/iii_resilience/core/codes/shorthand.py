"""One-letter names for categories and executions, which keep the rows of the tables short.

``T`` transient, ``A`` auth, ``N`` not-found, ``P`` payload, ``X`` permanent; ``NE`` not executed,
``ME`` maybe executed, ``EX`` executed. Knows nothing of any code.
"""

from __future__ import annotations

from iii_resilience.core.codes.model import Category, Execution

T = Category.TRANSIENT
A = Category.AUTH
N = Category.NOT_FOUND
P = Category.PAYLOAD
X = Category.PERMANENT

NE = Execution.NOT_EXECUTED
ME = Execution.MAYBE_EXECUTED
EX = Execution.EXECUTED
