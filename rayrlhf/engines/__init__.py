"""The engines: DeepSpeed trains, vLLM generates, transformers scores."""

import logging

# DeepSpeed warns on import that it found no accelerator, and sets its logger's level itself; a filter stays.
logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
