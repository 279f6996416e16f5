-- A tuning cache as schema 1 wrote it. It is never changed: later versions have to read it.
BEGIN TRANSACTION;
CREATE TABLE tuned_claims (digest TEXT NOT NULL, configuration TEXT NOT NULL, token TEXT NOT NULL,
        owner TEXT NOT NULL, since DOUBLE PRECISION NOT NULL, until DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (digest, configuration));
CREATE TABLE tuned_decisions (digest TEXT PRIMARY KEY, family TEXT NOT NULL, kind TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL, seal TEXT NOT NULL, body TEXT NOT NULL);
INSERT INTO "tuned_decisions" VALUES('e61fe5d2b87460a30ead71f0cbe1421c312a042c6cda23fcaee3c5eadc26a2d1','0a1f389ee76e2e9fb18035143bc33b3b8650906df08b12ded7e6ba8341a7a247','measured',1000000000.0,'07002859ec3364cee7166d97faac897b8fb5eaf9d5c39decf3e99fc05f0f65b4','{"at":1000000000.0,"configuration":{"values":{"BI":16,"BJ":16},"variant":"walk 0"},"default_us":12.0,"key":{"dtypes":"f16 f16 f16","generator":"7","place":{"memory_bytes":85899345920,"sms":132,"target":"sm_90"},"program":"abababababababababababababababababababababababababababababababab","sizes":[["i",64],["j",64]],"strides":"row row"},"kind":"measured","us":10.0,"versions":{"driver":"570.1","torch":"2.13.0","triton":"3.9.0"}}');
CREATE TABLE tuned_keys (digest TEXT PRIMARY KEY, program TEXT NOT NULL, target TEXT NOT NULL, body TEXT NOT NULL);
INSERT INTO "tuned_keys" VALUES('e61fe5d2b87460a30ead71f0cbe1421c312a042c6cda23fcaee3c5eadc26a2d1','abababababababababababababababababababababababababababababababab','sm_90','{"dtypes":"f16 f16 f16","generator":"7","place":{"memory_bytes":85899345920,"sms":132,"target":"sm_90"},"program":"abababababababababababababababababababababababababababababababab","sizes":[["i",64],["j",64]],"strides":"row row"}');
CREATE TABLE tuned_samples (seal TEXT PRIMARY KEY, digest TEXT NOT NULL, configuration TEXT NOT NULL,
        state TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, body TEXT NOT NULL);
INSERT INTO "tuned_samples" VALUES('0cbb2c1d55b3688537dd72c69e7634a570d1b91f16a0f5835f43dd00c3cabb84','e61fe5d2b87460a30ead71f0cbe1421c312a042c6cda23fcaee3c5eadc26a2d1','1da936eb32a88b50821137aefbc0b0e223d5f5de740913580ab739e6bf7daedd','measured',1000000000.0,'{"at":1000000000.0,"configuration":{"values":{"BI":16,"BJ":16},"variant":"walk 0"},"default_us":null,"note":"","predicted_us":null,"resources":{"registers":64},"rounds":5,"spread_us":0.5,"state":"measured","us":10.0,"versions":{"driver":"570.1","torch":"2.13.0","triton":"3.9.0"}}');
INSERT INTO "tuned_samples" VALUES('4c79291feaeaf0601eda8ca13e10cc62612e744c689a6d4160c8620e45d2ae0f','e61fe5d2b87460a30ead71f0cbe1421c312a042c6cda23fcaee3c5eadc26a2d1','8171c1a9687e2a7ce2009f290994e30c6a5b549d4650762904092e51b553c2fb','crashed',1000000001.0,'{"at":1000000001.0,"configuration":{"values":{"BI":32,"BJ":17},"variant":"walk 1"},"default_us":null,"note":"misaligned address","predicted_us":null,"resources":{"registers":64},"rounds":5,"spread_us":0.5,"state":"crashed","us":null,"versions":{"driver":"570.1","torch":"2.13.0","triton":"3.9.0"}}');
CREATE TABLE tuned_schema (version INTEGER NOT NULL);
INSERT INTO "tuned_schema" VALUES(1);
CREATE INDEX tuned_samples_of_key ON tuned_samples (digest, configuration);
CREATE INDEX tuned_decisions_of_family ON tuned_decisions (family);
COMMIT;
