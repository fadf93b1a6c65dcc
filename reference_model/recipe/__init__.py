"""From a folder of text files to the reference model: data, tokenizer, curriculum, training, export, evaluation, card.

    python -m reference_model.recipe prepare  text folder → tokenizer and token arrays, checked against every test set
    python -m reference_model.recipe train    arrays → weights and a log; takes up an interrupted run
    python -m reference_model.recipe export   weights and tokenizer → a Hugging Face checkpoint
    python -m reference_model.recipe evaluate checkpoint → evaluation.json
    python -m reference_model.recipe card     the JSON files → README.md and its figure
    python -m reference_model.recipe all      the first three in turn; with --smoke in under a minute on a CPU

Training and evaluation need torch, transformers and numpy (evaluation also statsmodels); neither SGLang nor lm-eval.
"""
