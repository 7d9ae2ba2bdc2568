"""Entity scores against cases counted by hand, by the rule of conlleval."""

import pytest

from common.metrics import entity_errors, entity_lookup, entity_scores, score

# gold PER(0-2) LOC(3-4) | ORG(0-1) | none;  predicted PER(0-2) ORG(3-4) | ORG(0-1) LOC(2-3) | none
GOLD = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O", "O"], ["O"]]
PREDICTED = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "O", "B-LOC"], ["O"]]


def test_scores_by_hand():
    scores = entity_scores(GOLD, PREDICTED)
    # 2 right of 4 predicted and 3 gold; 6 of 8 words have the right tag.
    assert (scores["precision"], scores["recall"]) == (2 / 4, 2 / 3)
    assert scores["f1"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert scores["accuracy"] == 6 / 8
    assert scores["types"]["PER"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}
    assert scores["types"]["ORG"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert scores["types"]["LOC"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_a_part_of_an_entity_is_wrong_twice():
    scores = entity_scores([["B-PER", "I-PER", "I-PER"]], [["B-PER", "I-PER", "O"]])
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0, 0, 0)


def test_two_neighbours_are_not_one():
    scores = entity_scores([["B-PER", "B-PER"]], [["B-PER", "I-PER"]])
    assert scores["f1"] == 0


def test_an_i_that_continues_nothing_starts_an_entity_as_in_conlleval():
    assert entity_scores([["B-PER", "I-PER", "O"]], [["I-PER", "I-PER", "O"]])["f1"] == 1
    assert entity_scores([["B-LOC", "O"]], [["I-LOC", "I-PER"]])["precision"] == 0.5


def test_no_entity_predicted_scores_nought_and_none_anywhere_too():
    scores = entity_scores([["B-PER"]], [["O"]])
    assert (scores["precision"], scores["recall"], scores["f1"], scores["accuracy"]) == (0, 0, 0, 0)
    assert entity_scores([["O", "O"]], [["O", "O"]])["accuracy"] == 1


@pytest.mark.parametrize("case", [([], []), ([["O"]], [["O", "O"]]), ([["O"]], [["O"], ["O"]])])
def test_what_cannot_be_scored_raises(case):
    with pytest.raises(ValueError):
        score("entities", *case)


def test_kinds_of_error():
    gold = [["B-PER", "I-PER", "O", "B-LOC", "O", "B-ORG", "O"]]
    wrong = [["B-PER", "O", "O", "B-ORG", "O", "O", "B-MISC"]]
    assert entity_errors(gold, wrong) == {
        "missed": 1,  # ORG
        "invented": 1,  # MISC
        "wrong type": 1,  # LOC as ORG
        "wrong boundary": 1,  # PER cut short
        "wrong type and boundary": 0,
    }
    assert sum(entity_errors(gold, gold).values()) == 0


def test_lookup_takes_the_longest_phrase_and_no_ambiguous_one():
    train = [
        (["New", "York", "Times"], ["B-ORG", "I-ORG", "I-ORG"]),
        (["York"], ["B-LOC"]),
        (["Ford"], ["B-PER"]),
        (["Ford"], ["B-ORG"]),
    ]
    tokens = [["The", "New", "York", "Times", "in", "York", "on", "Ford"]]
    assert entity_lookup(*zip(*train, strict=True), tokens) == [
        ["O", "B-ORG", "I-ORG", "I-ORG", "O", "B-LOC", "O", "O"]
    ]
