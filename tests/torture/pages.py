"""Reports of runs whose names, classes and notes are HTML, opened in a browser."""

import atexit
import functools
import random
import shutil
from pathlib import Path
from typing import Any

from saddlescope.reporting import write_report
from saddlescope.runs import write_text
from tests.reporting.conftest import recipe_text, write_run
from tests.torture.inputs import Bench, FaultError

HACK = "window.hacked=1"
PAYLOADS = (
    f"<script>{HACK}</script>", f'"><img src=x onerror={HACK}>', f"</script><script>{HACK}//",
    f"</style><svg onload={HACK}>", f"'\"--><body onload={HACK}>", "]]>", "<!--",
    f"<iframe srcdoc='<script>{HACK}'>", f"<a href=javascript:{HACK}>x</a>", "</title><h1>x",
    "<base href=//127.0.0.1:9/>",
    "<link rel=stylesheet href=//127.0.0.1:9/x.css>", "<meta http-equiv=refresh content=0;url=//x>",
    "&lt;script&gt;", "{{ 7*7 }}{% raw %}", "</text></svg><img src=x>", "<math><mtext></form>",
    f"<details open ontoggle={HACK}>", f"<input autofocus onfocus={HACK}>", "\u202e\u0000\x1b[31m",
    "<style>*{background:url(//127.0.0.1:9)}</style>", "<template>", "<plaintext>",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)


def why_not() -> str | None:
    """Why no page can be opened here, if so."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None if BROWSER else f"no browser: none of {', '.join(NAMES)}"


@functools.cache
def _browser() -> Any:
    from playwright.sync_api import sync_playwright

    driver = sync_playwright().start()
    browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
    atexit.register(lambda: (browser.close(), driver.stop()))
    return browser


def page(bench: Bench, rng: random.Random) -> str:
    """Write a report with payloads in all that a user can name, and read it to its end."""
    root = bench.fresh()

    def text() -> str:
        return "".join(rng.choices(PAYLOADS, k=rng.randint(1, 4)))

    classes = [f"{text()} {number}" for number in range(10)]
    info = {"method": text(), "provenance": {"command": [text()], "processor": text()}}
    run = write_run(root, rng.choice(("sam", text())), name="r", class_names=classes, info=info)
    folder = text().replace("/", "\u2215").replace("\0", "")[:80]
    run = run.rename(run.parent / folder)
    note = "".join(letter for letter in text() if letter.isprintable()).replace("'''", "")
    write_text(run / "recipe.toml", recipe_text("x", "sam", 0, extra=f"note = '''{note} '''"))
    made = write_report([run], root / "report.html")
    _open(made.path, folder)
    return "accepted"


def _open(path: Path, folder: str) -> None:
    address, heard = path.as_uri(), []
    with _browser().new_context() as context:
        tab = context.new_page()
        tab.on("request", lambda one: one.url in (address,) or heard.append(f"asks for {one.url}"))
        tab.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: heard.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
        tab.goto(address)
        tab.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
        tab.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        heard = [line for line in heard if not line.startswith("asks for data:")]
        if tab.evaluate("typeof window.hacked") != "undefined":
            heard.append("a script of a name was run")
        foreign = "img, iframe, base, input[autofocus], svg[onload], plaintext, math, a[href^=java]"
        if tab.locator(foreign).count() or tab.locator("script").count() != 1:
            heard.append("what a name holds is part of the page")
        if folder not in (tab.locator("body").text_content() or ""):
            heard.append("the name of the run is not there as it is")
    if heard:
        raise FaultError(f"{folder!r}: {heard[:3]}")
