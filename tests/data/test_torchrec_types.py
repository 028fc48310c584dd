"""With TorchRec; without it: tests/integration/test_without_torchrec.py."""

import copy
import pickle

import pytest
from torchrec.sparse import jagged_tensor
from torchrec.streamable import Multistreamable, Pipelineable

from dist_rec.data import torchrec_types
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.torchrec_types import NO_LOOKUP
from dist_rec.data.unique_tokens import UniqueTokens


def test_they_are_torchrecs_own_where_it_is_installed() -> None:
    assert torchrec_types.KeyedJaggedTensor is jagged_tensor.KeyedJaggedTensor
    assert issubclass(SequenceBatch, Multistreamable) and issubclass(UniqueTokens, Pipelineable)


def test_what_is_not_looked_up_says_where_the_ids_are() -> None:
    with pytest.raises(
        AttributeError, match=r"values: .* made without a lookup; its ids are those of HostBatch.ids_of"
    ):
        NO_LOOKUP.values()


def test_it_travels_with_its_batch() -> None:
    for of in (copy.deepcopy(NO_LOOKUP), pickle.loads(pickle.dumps(NO_LOOKUP))):
        assert type(of) is type(NO_LOOKUP)
