-- A journal of schema 1, as its daemon left it: 1.0.0 committed, 1.1.0 rolled back and refused, 1.2.0 armed.
-- It must open for ever (`journal::tests::fixture`). Never changed; a new schema gets a file of its own.
BEGIN TRANSACTION;
CREATE TABLE attempt (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, slot TEXT NOT NULL, from_version TEXT NOT NULL, to_version TEXT NOT NULL,
  to_sequence INTEGER NOT NULL, to_digest TEXT NOT NULL, started_at_ms INTEGER NOT NULL, ended_at_ms INTEGER,
  outcome TEXT, code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', bytes_downloaded INTEGER NOT NULL DEFAULT 0,
  notes TEXT NOT NULL DEFAULT '', claim TEXT);
INSERT INTO "attempt" VALUES('00000000-0000-4000-8000-000000000000','update','a','0.9.0','1.0.0',1,'92521fc3cbd964bdc9f584a991b89fddaa5754ed1cc96d6d42445338669c1305',1795262400000,1795435200000,'committed','','',1024,'',NULL);
INSERT INTO "attempt" VALUES('11111111-1111-4111-8111-111111111111','update','b','1.0.0','1.1.0',2,'7fbd210ebec11f65a97190ef900795c4b8da3805af3f5a1b8d1d272556b292ca',1795348800000,1795435200000,'rolled-back','rolled-back','1.1.0 rolled back to 1.0.0: the loader spent its tries and went back',2048,'reboot forced: lock and inhibitors skipped',NULL);
INSERT INTO "attempt" VALUES('22222222-2222-4222-8222-222222222222','update','b','1.0.0','1.2.0',3,'9f77034b1eb57d24f21ac7deb65c9cc99f63b72775e311f1f280ab2b6c2e06a2',1795435200000,NULL,NULL,'','',4096,'','{"url":"http://locks.example:8085/","group":"default","id":"4f3c2b1a","fence":"17","granted":true}');
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO "meta" VALUES('schema',1);
INSERT INTO "meta" VALUES('min_reader',1);
CREATE TABLE model (id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL);
INSERT INTO "model" VALUES(1,'{"state":{"state":"armed","plan":{"attempt":"22222222-2222-4222-8222-222222222222","kind":"update","slot":"b","from_version":"1.0.0","version":"1.2.0","sequence":3,"digest":"9f77034b1eb57d24f21ac7deb65c9cc99f63b72775e311f1f280ab2b6c2e06a2","source":{"urls":["https://updates.example/files/1.2.0.payload"],"size":26700000},"notes_url":"https://notes.example/1.2.0","image_bytes":104857600,"no_reboot":false,"reboot_asked":false,"forced":false,"allow_older":false,"claim":{"url":"http://locks.example:8085/","group":"default","id":"4f3c2b1a","fence":"17","granted":true},"reported_installed":true,"drained":true,"giving_up":null,"started_at":1795435200000},"old_slot":"a","boot_id":"boot-1","step":"rebooting"},"check":{"count":12,"next":{"boot_id":"boot-1","at":5000000,"at_wall":1795521600000},"last_at":1795435200000,"last_result":"update to 1.2.0 available","errors":0,"hold":null,"reached_at":1795435200000,"newest_record":{"sequence":3,"created":"2026-11-23T12:00:00Z"}},"alarm":null,"pause":null,"failures":null,"bad_boots":null,"last_error":{"code":"rolled-back","message":"1.1.0 rolled back to 1.0.0","at":1795348800000,"about":"attempt"},"ended":{"committed":1,"rolled_back":1,"failed":0},"committed":{"a":{"digest":"92521fc3cbd964bdc9f584a991b89fddaa5754ed1cc96d6d42445338669c1305","sequence":1,"version":"1.0.0"},"b":null},"channel":null,"superseded_at":null,"journal_note":null}');
CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, attempt TEXT NOT NULL, created_at_ms INTEGER NOT NULL, body TEXT NOT NULL);
INSERT INTO "outbox" VALUES(1,'report','11111111-1111-4111-8111-111111111111',1795435200000,'{"message":"report","kind":"rolled-back","attempt":"11111111-1111-4111-8111-111111111111","running_version":"1.0.0","from_version":"1.0.0","to_version":"1.1.0","code":"rolled-back","reason":"1.1.0 rolled back to 1.0.0: the loader spent its tries and went back"}');
INSERT INTO "outbox" VALUES(2,'release','11111111-1111-4111-8111-111111111111',1795435200000,'{"message":"release","claim":{"url":"http://locks.example:8085/","group":"default","id":"4f3c2b1a","fence":"17","granted":true},"outcome":"rolled-back"}');
CREATE TABLE refusal (
  digest TEXT PRIMARY KEY, sequence INTEGER NOT NULL, version TEXT NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL);
INSERT INTO "refusal" VALUES('7fbd210ebec11f65a97190ef900795c4b8da3805af3f5a1b8d1d272556b292ca',2,'1.1.0','the loader spent its tries and went back',1795348800000);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('outbox',2);
COMMIT;
