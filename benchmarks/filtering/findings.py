"""What the numbers of the page show, in words; to be read again when they change. One paragraph each."""

FINDINGS = [
    "LONGER of the quickstart, one rank, 100 steps of 32 requests with 16 candidates. The synthetic logs have a domain "
    "of a fifth of the events, mixed into the sessions of users. Evaluation sees whole histories. Means over seeds, "
    "every seed with data of its own; +- is the standard error. Few seeds: read differences of less than two errors as "
    "none. The command goes on where its tables end. Trained with the code of commits 829aad0 to 33fff38.",
    "What holds of the paper (arXiv 2601.21571), and what does not:",
    "- **Users against events: holds.** At 20 % filtered, removing users takes a tenth of what the AUC of the domain "
    "has above chance, and costs the rest almost as much. Every action on events takes a quarter to a third, and costs "
    "the rest nothing that can be seen.",
    "- **MASK before HIDE: does not hold here.** At 20 % they differ by less than their errors, and at 50 % MASK takes "
    "more and costs less. A ranker differs from a language model: a masked event is never a positive, but its row is "
    "still seen in the histories of other labels, and seems to learn to speak against the domain. That lowers the AUC; "
    "it does not mean that the row knows nothing.",
    "- **Slowdown that grows with width: holds for HIDE, KEYMASK and DROP**, not for MASK. Factors are single digits; "
    "those of the paper come from two and a half decades of compute.",
    "- **Label noise: holds.** The first tenth of wrong labels costs about half of the effect, more costs less and "
    "less. At 40 % HIDE and DROP also cost the rest, since they then take away twice the events.",
    "- **A late start: holds.** From 40 % of the steps on, HIDE and DROP take a fifth to a quarter of what they take "
    "from the start, MASK about half.",
    "- **Relearning: no difference** between a filter from the start and a purged run: all need more than half of the "
    "steps of a first training. A late start needs somewhat fewer.",
    "- **Membership**: no action on events leaves members of the domain that can be told apart. A run without a filter "
    "has them, and a purge of rows takes most of that, at no cost for the rest.",
    "- **Public data**: on statics2011 the actions bring the forgotten exercises near chance and leave the others as "
    "they were. On ml-100k they take a sixth of what the genre's AUC has above chance: user and genre still say much.",
    "- **Coarse labels suffice for a probe: holds**, for tokens alone. F1 on the coarse labels themselves would choose "
    "states with context, which are worse. At 40 % noise the order of the scores is still good, but the threshold has "
    "to be set by the share.",
]
