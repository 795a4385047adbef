-- The application of the demonstration: a team chat in the manner of Mattermost. Identifiers have 26 characters, times are
-- milliseconds since 1970, and attachments lie in a bucket under the paths that fileinfo names.

CREATE TYPE channel_type AS ENUM ('O', 'P', 'D');

CREATE TABLE users (
    id varchar(26) PRIMARY KEY,
    createat bigint NOT NULL,
    updateat bigint NOT NULL,
    deleteat bigint NOT NULL DEFAULT 0,
    username varchar(64) NOT NULL UNIQUE,
    email varchar(128) NOT NULL UNIQUE,
    nickname varchar(64),
    firstname varchar(64),
    lastname varchar(64),
    roles varchar(256) NOT NULL,
    locale varchar(5) NOT NULL,
    notifyprops jsonb NOT NULL,
    timezone jsonb NOT NULL
);

CREATE TABLE teams (
    id varchar(26) PRIMARY KEY,
    createat bigint NOT NULL,
    deleteat bigint NOT NULL DEFAULT 0,
    displayname varchar(64) NOT NULL,
    name varchar(64) NOT NULL UNIQUE,
    description varchar(255)
);

CREATE TABLE teammembers (
    teamid varchar(26) NOT NULL REFERENCES teams,
    userid varchar(26) NOT NULL REFERENCES users,
    roles varchar(256) NOT NULL,
    createat bigint NOT NULL,
    PRIMARY KEY (teamid, userid)
);

CREATE TABLE channels (
    id varchar(26) PRIMARY KEY,
    teamid varchar(26) NOT NULL REFERENCES teams,
    creatorid varchar(26) NOT NULL REFERENCES users,
    type channel_type NOT NULL,
    createat bigint NOT NULL,
    deleteat bigint NOT NULL DEFAULT 0,
    displayname varchar(64) NOT NULL,
    name varchar(64) NOT NULL,
    header varchar(1024),
    purpose varchar(250),
    UNIQUE (teamid, name)
);

CREATE TABLE channelmembers (
    channelid varchar(26) NOT NULL REFERENCES channels,
    userid varchar(26) NOT NULL REFERENCES users,
    roles varchar(256) NOT NULL,
    lastviewedat bigint NOT NULL,
    msgcount bigint NOT NULL,
    mentioncount bigint NOT NULL,
    notifyprops jsonb NOT NULL,
    PRIMARY KEY (channelid, userid)
);

CREATE TABLE posts (
    id varchar(26) PRIMARY KEY,
    createat bigint NOT NULL,
    updateat bigint NOT NULL,
    editat bigint NOT NULL DEFAULT 0,
    deleteat bigint NOT NULL DEFAULT 0,
    userid varchar(26) NOT NULL REFERENCES users,
    channelid varchar(26) NOT NULL REFERENCES channels,
    rootid varchar(26) REFERENCES posts,
    message varchar(65535) NOT NULL,
    hashtags varchar(1000),
    props jsonb NOT NULL DEFAULT '{}',
    ispinned boolean NOT NULL DEFAULT false
);
CREATE INDEX posts_channel_createat ON posts (channelid, createat DESC, deleteat);
CREATE INDEX posts_root ON posts (rootid, createat) WHERE rootid IS NOT NULL;
CREATE INDEX posts_user ON posts (userid);
CREATE INDEX posts_words ON posts USING gin (to_tsvector('english', message));

CREATE TABLE reactions (
    userid varchar(26) NOT NULL REFERENCES users,
    postid varchar(26) NOT NULL REFERENCES posts,
    emojiname varchar(64) NOT NULL,
    createat bigint NOT NULL,
    PRIMARY KEY (postid, userid, emojiname)
);

CREATE TABLE fileinfo (
    id varchar(26) PRIMARY KEY,
    creatorid varchar(26) NOT NULL REFERENCES users,
    postid varchar(26) NOT NULL REFERENCES posts,
    channelid varchar(26) NOT NULL REFERENCES channels,
    createat bigint NOT NULL,
    deleteat bigint NOT NULL DEFAULT 0,
    path varchar(512) NOT NULL UNIQUE,
    thumbnailpath varchar(512),
    previewpath varchar(512),
    name varchar(256) NOT NULL,
    extension varchar(64) NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    mimetype varchar(256) NOT NULL,
    width integer,
    height integer
);
CREATE INDEX fileinfo_post ON fileinfo (postid);
CREATE INDEX fileinfo_createat ON fileinfo (createat);

CREATE TABLE preferences (
    userid varchar(26) NOT NULL REFERENCES users,
    category varchar(32) NOT NULL,
    name varchar(32) NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (userid, category, name)
);

CREATE TABLE sessions (
    id varchar(26) PRIMARY KEY,
    tokendigest bytea NOT NULL UNIQUE,
    createat bigint NOT NULL,
    expiresat bigint NOT NULL,
    userid varchar(26) NOT NULL REFERENCES users,
    deviceid varchar(512),
    props jsonb NOT NULL
);
CREATE INDEX sessions_user ON sessions (userid);

CREATE TABLE audits (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    createat bigint NOT NULL,
    userid varchar(26) REFERENCES users,
    action varchar(512) NOT NULL,
    ipaddress inet NOT NULL
);

CREATE MATERIALIZED VIEW posts_by_day AS
    SELECT date(to_timestamp(createat / 1000) AT TIME ZONE 'UTC') AS day, count(*) AS posts
    FROM posts WHERE deleteat = 0 GROUP BY 1
    WITH NO DATA;
CREATE UNIQUE INDEX posts_by_day_day ON posts_by_day (day);
