"""A trained model: presets, plan, checkpoint, bundled models; and what it makes, from a request to a case with its record.

``checkpoint`` loads a generator, ``sampling`` draws whole cases, ``records`` keeps what is needed to make a case again.
"""
