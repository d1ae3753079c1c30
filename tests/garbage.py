"""Does what is over go at once, by reference counts alone? The garbage collector would come by hours later."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable


def of_the_program() -> Counter[str]:
    """The objects of the program that live, by class."""
    classes: Counter[str] = Counter()
    for one in gc.get_objects():
        kind = type(one)
        if str(kind.__module__).startswith(("fcgi_core.", "fcgi_syslog.", "fcgi_metrics.")):
            classes[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return classes


async def assert_nothing_stays(happens: Callable[[], Awaitable[None]], times: int = 3) -> None:
    """Let the same happen again and again with the collector off: no class has more objects each time.

    Two rounds are compared, so that the last of something, which is kept until the next comes, does not count.
    """
    gc.collect()
    gc.disable()
    logging.disable()  # pytest keeps what is logged, with the objects in it
    try:
        await happens()
        counts = [of_the_program()]
        for _ in range(2):
            for _ in range(times):
                await happens()
            counts.append(of_the_program())
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    stayed = {name: second[name] for name in first if first[name] >= times and second[name] >= times}
    assert not stayed, f"after {times} more: {stayed}"
