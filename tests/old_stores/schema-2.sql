-- A run folder's database as schema 2 left it (version 0.1.0): a finished run of two rounds, answered by the oracle and
-- corrected by a person, with a skip that became a label.
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT;
INSERT INTO migrations VALUES
    (1, 'm001_tables', '2026-02-05T10:00:00.000+00:00'),
    (2, 'm002_finish', '2026-02-05T10:00:00.000+00:00');
CREATE TABLE run (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    key TEXT NOT NULL, facts TEXT NOT NULL, begun_at TEXT NOT NULL
) STRICT;
INSERT INTO run VALUES (1, '{"seed": 0, "train.epochs": 6}', '{"strategy": "star"}', '2026-02-05T10:00:01.000+00:00');
CREATE TABLE examples (
    id TEXT PRIMARY KEY, fields TEXT NOT NULL, prompt TEXT NOT NULL, source TEXT NOT NULL
) STRICT;
INSERT INTO examples VALUES
    ('00000000000000aa', '{"text": "first"}', 'Text: first', 'pool.csv line 2'),
    ('00000000000000bb', '{"text": "second"}', 'Text: second', 'pool.csv line 3'),
    ('00000000000000cc', '{"text": "third"}', 'Text: third', 'pool.csv line 4');
CREATE TABLE queries (round INTEGER PRIMARY KEY CHECK (round >= 0), asked_at TEXT NOT NULL) STRICT;
INSERT INTO queries VALUES (0, '2026-02-05T10:00:02.000+00:00'), (1, '2026-02-05T10:05:00.000+00:00');
CREATE TABLE picks (
    round INTEGER NOT NULL REFERENCES queries (round), position INTEGER NOT NULL,
    example TEXT NOT NULL UNIQUE REFERENCES examples (id), score REAL, details TEXT NOT NULL,
    PRIMARY KEY (round, position)
) STRICT;
INSERT INTO picks VALUES
    (0, 0, '00000000000000bb', NULL, '{}'),
    (0, 1, '00000000000000aa', NULL, '{}'),
    (1, 0, '00000000000000cc', 0.75, '{"base": 1.0, "full": 0.5, "lambda": 0.5}');
CREATE TABLE answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, example TEXT NOT NULL REFERENCES picks (example),
    kind TEXT NOT NULL CHECK (kind IN ('label', 'skip')), answer TEXT NOT NULL,
    annotator TEXT NOT NULL, answered_at TEXT NOT NULL
) STRICT;
INSERT INTO answers VALUES
    (1, '00000000000000bb', 'label', 'yes', 'oracle', '2026-02-05T10:01:00.000+00:00'),
    (2, '00000000000000aa', 'skip', 'unclear', 'person', '2026-02-05T10:02:00.000+00:00'),
    (3, '00000000000000bb', 'label', 'no', 'person', '2026-02-05T10:03:00.000+00:00'),
    (5, '00000000000000aa', 'label', 'yes', 'person', '2026-02-05T10:03:30.000+00:00'),
    (6, '00000000000000cc', 'label', 'no', 'oracle', '2026-02-05T10:06:00.000+00:00');
CREATE INDEX answers_by_example ON answers (example, number);
CREATE TABLE adapters (
    round INTEGER PRIMARY KEY REFERENCES queries (round),
    sha256 TEXT NOT NULL, recorded_at TEXT NOT NULL
) STRICT;
CREATE TABLE arrays (
    round INTEGER NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, recorded_at TEXT NOT NULL,
    PRIMARY KEY (round, name)
) STRICT;
CREATE TABLE metrics (
    round INTEGER PRIMARY KEY REFERENCES queries (round),
    labels INTEGER NOT NULL, "values" TEXT NOT NULL, recorded_at TEXT NOT NULL
) STRICT;
INSERT INTO metrics VALUES
    (0, 2, '{"accuracy": 0.5, "ece": "nan"}', '2026-02-05T10:04:00.000+00:00'),
    (1, 3, '{"accuracy": 0.75, "ece": 0.1}', '2026-02-05T10:07:00.000+00:00');
CREATE TABLE timings (
    round INTEGER NOT NULL, phase TEXT NOT NULL, seconds REAL NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (round, phase)
) STRICT;
INSERT INTO timings VALUES (0, 'train', 12.5, 2), (1, 'train', 14.5, 3);
CREATE TABLE finish (
    id INTEGER PRIMARY KEY CHECK (id = 1), stop TEXT NOT NULL, finished_at TEXT NOT NULL
) STRICT;
INSERT INTO finish VALUES (1, 'BUDGET', '2026-02-05T10:07:01.000+00:00');
