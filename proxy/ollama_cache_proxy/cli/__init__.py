"""The command line: main.py reads it, and imports the one command that is named, a module with `add` and `run`.

    options.py   options that several commands take, and the settings and URLs that come of them
    asking.py    asking a running proxy, or Ollama: deadlines, and failures in one line
    screen.py    tables on terminals, plain columns in pipes, JSON
    ending.py    exit statuses, and how a command fails
    filters.py   which entries a command means
    reasons.py   what to do about a request that was passed on
    loop.py      the event loop, and signals
    checks/      what `doctor` looks at
    jobs/        the work of `bench`, `warm` and `quantize`, around workbench/
    worker.py    one process of `serve --workers`, which alone starts it

What only one command needs is imported when it runs.
"""
