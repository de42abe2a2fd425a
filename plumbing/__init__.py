"""What a run needs beside the method. Nobody has to read this to understand DSRL. The map:

    flags.py         the command line: every flag, the presets, the variants
    benchmarks.py    data sets: found, loaded, counted
    rows.py          files of rows, read as they stand
    layouts.py       a row in any layout as a problem
    prompts.py       how a question is put, what stands in for it, what ends a response
    grading.py       answers of each kind of problem, verifiers of one's own
    evaluation.py    sample and grade k responses a problem; Avg@k, pass@k, thoughts
    spelling.py      one way to write what prints the same, for reward.py
    choices.py       answers that are letters of options, for reward.py
    units.py         units that read as products of names, for reward.py
    answers.py       the grammar and arithmetic of answers, for reward.py
    hub.py           names of models, the hub
    checkpoints.py   Hugging Face folders in and out
    files.py         JSON, records, folders: whole or not there, one writer at a time
    resume.py        the run folder, checkpoints with AdamW's moments, --resume
    records.py       metrics, samples, curves, the console, the ways a run ends
    console.py       what reaches the terminal, and how a command ends
    processes.py     torchrun, --shard
    lora.py          --lora-rank: adapters beside frozen weights
    plan.py          memory: what a run needs and chooses, and what happens when it runs out
    dryrun.py        --dry-run: settings, memory, time
    alignment.py     the cosine of the two spaces' gradients
    ask.py           one question from the shell, answered as the model writes
    look.py          a look into one model: cosines, a response token by token
"""
