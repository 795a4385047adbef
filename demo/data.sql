-- Some 100,000 rows, the same ones every time.
SET max_parallel_workers_per_gather = 0; -- parallel workers would draw random numbers in another order
SELECT setseed(0.42);

CREATE FUNCTION pg_temp.id(kind text, number bigint) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$ SELECT substr(translate(encode(sha256(convert_to(kind || number, 'UTF8')), 'base64'), '+/=ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz345'), 1, 26) $$;

CREATE FUNCTION pg_temp.pick(choices text[]) RETURNS text LANGUAGE sql VOLATILE
    AS $$ SELECT choices[1 + floor(random() * cardinality(choices))::int] $$;

-- One chatty sentence of `length` words.
CREATE FUNCTION pg_temp.words(length int) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT string_agg(pg_temp.pick(ARRAY['the', 'a', 'we', 'you', 'it', 'deploy', 'release', 'customer', 'ticket', 'invoice', 'meeting',
        'backup', 'database', 'server', 'the', 'and', 'to', 'of', 'is', 'was', 'can', 'should', 'please', 'thanks', 'today', 'tomorrow',
        'friday', 'review', 'branch', 'merged', 'failing', 'green', 'again', 'after', 'before', 'with', 'without', 'because', 'lunch',
        'call', 'screenshot', 'attached', 'see', 'log', 'latency', 'region', 'north', 'harbour', 'plan', 'budget', 'quarter', 'draft',
        'naïve', 'Übergabe', 'déjà', 'наконец', '会議', '👍', ':tada:', '@here', 'https://wiki.example.com/runbook', '`make test`',
        'not', 'yet', 'maybe', 'really', 'on', 'in', 'at', 'for', 'from', 'who', 'what', 'when', 'why', 'how', 'agreed', 'done']), ' ')
    FROM generate_series(1, length)
$$;

-- Milliseconds: from 2023-11-01 on for about a year, the later the higher the number (of `total`).
CREATE FUNCTION pg_temp.at(number bigint, total bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
    AS $$ SELECT 1698796800000 + number * (31536000000 / total) $$;

INSERT INTO users
SELECT pg_temp.id('user', i), pg_temp.at(i, 800), pg_temp.at(i, 800), CASE WHEN i % 37 = 0 THEN pg_temp.at(i, 800) ELSE 0 END,
    lower(f.first || '.' || f.last) || i, lower(f.first || '.' || f.last) || i || '@example.com',
    CASE WHEN i % 3 = 0 THEN f.first END, f.first, f.last,
    CASE WHEN i <= 3 THEN 'system_admin system_user' ELSE 'system_user' END, pg_temp.pick(ARRAY['en', 'de', 'fr', 'ja', 'ru']),
    jsonb_build_object('desktop', pg_temp.pick(ARRAY['all', 'mention', 'none']), 'email', i % 2 = 0, 'first_name', false),
    jsonb_build_object('useAutomaticTimezone', i % 4 <> 0, 'automaticTimezone', pg_temp.pick(ARRAY['Europe/Berlin', 'America/New_York', 'Asia/Tokyo']))
FROM generate_series(1, 800) i,
    LATERAL (SELECT i AS again, pg_temp.pick(ARRAY['Ada', 'Grace', 'Linus', 'Edsger', 'Barbara', 'Ken', 'Radia', 'Jürgen', 'Zoë', 'Yuki']) AS first,
        pg_temp.pick(ARRAY['Novak', 'Silva', 'Meyer', 'Okafor', 'Tanaka', 'Dubois', 'Larsen', 'Rossi', 'Ivanova', 'Kim']) AS last) f;

INSERT INTO teams
SELECT pg_temp.id('team', i), pg_temp.at(0, 1), 0, initcap(name), name, pg_temp.words(12)
FROM unnest(ARRAY['engineering', 'support', 'sales', 'harbour-office']) WITH ORDINALITY AS t (name, i);

INSERT INTO teammembers
SELECT pg_temp.id('team', 1 + (i + n * n) % 4), pg_temp.id('user', i), CASE WHEN i < 20 THEN 'team_admin team_user' ELSE 'team_user' END, pg_temp.at(i, 800)
FROM generate_series(1, 800) i, generate_series(0, 1) n;

INSERT INTO channels
SELECT pg_temp.id('channel', i), pg_temp.id('team', 1 + i % 4), pg_temp.id('user', 1 + i * 7 % 800),
    CASE WHEN i <= 100 THEN 'O' WHEN i <= 160 THEN 'P' ELSE 'D' END::channel_type, pg_temp.at(i, 800),
    CASE WHEN i % 41 = 0 THEN pg_temp.at(i, 400) ELSE 0 END, 'Channel ' || i, 'channel-' || i, pg_temp.words(6), pg_temp.words(9)
FROM generate_series(1, 200) i;

INSERT INTO channelmembers
SELECT pg_temp.id('channel', c), pg_temp.id('user', 1 + (c * 31 + n * 17) % 800), 'channel_user', pg_temp.at(c * 4 + n, 800),
    floor(random() * 500), floor(random() * 5), jsonb_build_object('desktop', 'default', 'mark_unread', CASE WHEN n % 9 = 0 THEN 'mention' ELSE 'all' END)
FROM generate_series(1, 200) c, generate_series(1, 45) n;

-- Most messages are short, some are long, a few are walls of text; every fifth answers an earlier one of its channel.
INSERT INTO posts
SELECT pg_temp.id('post', i), at, at + CASE WHEN i % 23 = 0 THEN 60000 ELSE 0 END, CASE WHEN i % 23 = 0 THEN at + 60000 ELSE 0 END,
    CASE WHEN i % 97 = 0 THEN at + 3600000 ELSE 0 END, pg_temp.id('user', 1 + floor(random() * 800)::int), pg_temp.id('channel', 1 + i % 200),
    CASE WHEN i % 5 = 0 AND i > 2000 THEN pg_temp.id('post', i - 200 * (1 + i % 7)) END,
    pg_temp.words(CASE WHEN i % 700 = 0 THEN 400 ELSE 1 + floor(24 * random() * random())::int END),
    CASE WHEN i % 29 = 0 THEN '#incident' END, CASE WHEN i % 50 = 0 THEN '{"from_webhook": "true"}' ELSE '{}' END::jsonb, i % 811 = 0
FROM generate_series(1, 62000) i, LATERAL (SELECT pg_temp.at(i, 62000) AS at) t;

INSERT INTO reactions
SELECT pg_temp.id('user', 1 + floor(random() * 800)::int), pg_temp.id('post', 1 + i * 3 % 62000),
    pg_temp.pick(ARRAY['+1', 'tada', 'eyes', 'heart', 'white_check_mark', 'joy']), pg_temp.at(i, 18000)
FROM generate_series(1, 18000) i
ON CONFLICT DO NOTHING;

INSERT INTO preferences
SELECT pg_temp.id('user', u), category, 'setting-' || n, pg_temp.pick(ARRAY['true', 'false', '12', 'compact', 'clock'])
FROM generate_series(1, 800) u, unnest(ARRAY['display_settings', 'sidebar_settings']) category, generate_series(1, 4) n;

INSERT INTO sessions
SELECT pg_temp.id('session', i), sha256(convert_to('session' || i, 'UTF8')), pg_temp.at(i, 1200), pg_temp.at(i, 1200) + 2592000000,
    pg_temp.id('user', 1 + i % 800), CASE WHEN i % 3 = 0 THEN 'apple:' || pg_temp.id('device', i) END, jsonb_build_object('browser', 'Firefox/' || 100 + i % 30)
FROM generate_series(1, 1200) i;

INSERT INTO audits (createat, userid, action, ipaddress)
SELECT pg_temp.at(i, 3000), pg_temp.id('user', 1 + i % 800), pg_temp.pick(ARRAY['login', 'logout', 'update_password', 'create_channel']),
    ('10.' || i % 200 || '.' || i % 251 || '.' || i % 17)::inet
FROM generate_series(1, 3000) i;

-- Attachments: sizes are log-normal around 40 KB, at most 6 MB; pictures have a thumbnail and a preview; the checklist is posted
-- again and again, the same bytes each time.
INSERT INTO fileinfo
SELECT f.id, p.userid, p.id, p.channelid, p.createat, CASE WHEN i % 67 = 0 THEN p.createat + 3600000 ELSE 0 END,
    f.directory || f.name,
    CASE WHEN f.picture THEN f.directory || split_part(f.name, '.', 1) || '_thumb.jpg' END,
    CASE WHEN f.picture THEN f.directory || split_part(f.name, '.', 1) || '_preview.jpg' END,
    f.name, split_part(f.name, '.', 2),
    CASE WHEN f.name = 'release-checklist.pdf' THEN 88123
        ELSE least(6000000, greatest(300, exp(10.6 + 1.3 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()))))::bigint END,
    CASE split_part(f.name, '.', 2) WHEN 'png' THEN 'image/png' WHEN 'jpg' THEN 'image/jpeg' WHEN 'pdf' THEN 'application/pdf'
        WHEN 'log' THEN 'text/plain' ELSE 'text/csv' END,
    CASE WHEN f.picture THEN 1280 END, CASE WHEN f.picture THEN 720 END
FROM generate_series(1, 1500) i
JOIN posts p ON p.id = pg_temp.id('post', i * 41),
LATERAL (
    SELECT *, name LIKE '%.png' OR name LIKE '%.jpg' AS picture FROM (
        SELECT pg_temp.id('file', i) AS id,
            to_char(to_timestamp(p.createat / 1000) AT TIME ZONE 'UTC', 'YYYYMMDD') || '/teams/noteam/channels/' || p.channelid || '/users/' || p.userid
                || '/' || pg_temp.id('file', i) || '/' AS directory,
            CASE WHEN i % 25 = 0 THEN 'release-checklist.pdf'
                ELSE pg_temp.pick(ARRAY['screenshot', 'diagram', 'übersicht', 'whiteboard photo', 'report (final)', 'trace']) || '.'
                    || (ARRAY['png', 'jpg', 'png', 'pdf', 'png', 'log', 'jpg', 'csv'])[1 + i % 8] END AS name
    ) named
) f;

REFRESH MATERIALIZED VIEW posts_by_day;
ANALYZE users, teams, teammembers, channels, channelmembers, posts, reactions, fileinfo, preferences, sessions, audits, posts_by_day;
