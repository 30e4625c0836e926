"""One-letter names for what tests of the classifier expect, as the tables of codes have them.

Not those of the tables themselves: an expectation must not change with what it is compared to.
"""

from __future__ import annotations

from iii_resilience import Category, Execution

T = Category.TRANSIENT
A = Category.AUTH
N = Category.NOT_FOUND
P = Category.PAYLOAD
X = Category.PERMANENT

NE = Execution.NOT_EXECUTED
ME = Execution.MAYBE_EXECUTED
EX = Execution.EXECUTED
