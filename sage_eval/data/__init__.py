"""The tasks' data: where it is, how it is read, and how it is checked.

Data comes from the Hugging Face hub, or from the folder that `SAGE_EVAL_DATA` names. Its format:

    wikitext2/wiki.test.raw, wiki.valid.raw     the files of wikitext-2-raw-v1
    mmlu/dev/SUBJECT_dev.csv, test/…, val/…     question, four choices, letter; no header (val is optional)
    haystack/*.txt                              filler for the retrieval tasks
    hub/OWNER/NAME/, web/HOST/…, nltk_data/     what other tasks load (`sage_eval.data.loads`)
    manifest.json                               written by `sage-eval prepare`
"""

from sage_eval.data.folder import DATA_ENV, check_file, data_dir, tasks_dir
from sage_eval.data.hub_datasets import local_dataset

__all__ = ["DATA_ENV", "check_file", "data_dir", "local_dataset", "tasks_dir"]
