-- What happens between two backups: messages with attachments come, some are edited, some reactions go, a user changes a name.
INSERT INTO posts (id, createat, updateat, userid, channelid, message)
SELECT substr(md5('later post ' || i), 1, 26), 1735700000000 + i, 1735700000000 + i, u.id, c.id, 'Written after the first backup, number ' || i
FROM generate_series(1, 500) i
JOIN LATERAL (SELECT id FROM users ORDER BY id OFFSET i % 800 LIMIT 1) u ON true
JOIN LATERAL (SELECT id FROM channels ORDER BY id OFFSET i % 200 LIMIT 1) c ON true;

INSERT INTO fileinfo (id, creatorid, postid, channelid, createat, path, name, extension, size, mimetype)
SELECT p.id, p.userid, p.id, p.channelid, p.createat,
    '20250101/teams/noteam/channels/' || p.channelid || '/users/' || p.userid || '/' || p.id || '/late.png', 'late.png', 'png', 20000 + i * 1000, 'image/png'
FROM generate_series(1, 25) i JOIN posts p ON p.id = substr(md5('later post ' || i * 20), 1, 26);

UPDATE posts SET message = message || ' (edited)', editat = 1735800000000, updateat = 1735800000000
WHERE id IN (SELECT id FROM posts ORDER BY id LIMIT 200);

DELETE FROM reactions WHERE postid IN (SELECT id FROM posts ORDER BY id DESC LIMIT 1000);

UPDATE users SET nickname = 'Captain', updateat = 1735800000000 WHERE id = (SELECT min(id) FROM users);

REFRESH MATERIALIZED VIEW posts_by_day;
