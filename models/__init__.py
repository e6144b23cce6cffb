"""Captioning models: encoder, attention decoder, beam search, checkpoints.

Shape letters used in every docstring and annotation of this project:

=========  =====================================================================
``B``      images in a batch
``K``      beam size: hypotheses kept per image
``T``      steps of a caption; step ``t`` says word ``t``; ``<end>`` is a step too
``V``      words in the vocabulary, special tokens included
``L``      cells of the annotation grid, ``L = H_g * W_g``, row by row from the top left
``D``      length of one annotation vector
``H, W``   height and width of the preprocessed image, in pixels
=========  =====================================================================
"""
