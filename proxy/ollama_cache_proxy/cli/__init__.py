"""The command line: main.py parses it and imports only the command that is named, a module with `add` and `run`.

    options.py   options that several commands take, and the settings and URLs that follow from them
    asking.py    requests to a running proxy or to Ollama: deadlines, and failures in one line
    screen.py    tables on a terminal, plain columns in a pipe, JSON
    ending.py    exit statuses, and how a command fails
    filters.py   options that select entries
    reasons.py   what to do about a bypass
    loop.py      the event loop, and signals
    checks/      what `doctor` checks
    jobs/        the work of `bench`, `warm`, `quantize` and packs, around workbench/
    worker.py    one process of `serve --workers`, started by nothing else

What only one command needs is imported when it runs.
"""
