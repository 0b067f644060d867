--
-- PostgreSQL database dump
--

\restrict 0Q1BnksMBBQgUAvSjpv6Ard6kqoVcdd0wHoOwMo62K7eGbrlHq1Wg1ZqkhuYlqg

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: shop; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA shop;


--
-- Name: st; Type: TYPE; Schema: shop; Owner: -
--

CREATE TYPE shop.st AS ENUM (
    'a',
    'b''c'
);


--
-- Name: f(integer); Type: FUNCTION; Schema: shop; Owner: -
--

CREATE FUNCTION shop.f(a integer) RETURNS integer
    LANGUAGE plpgsql
    AS $$ BEGIN RETURN a; END $$;


--
-- Name: g(integer); Type: FUNCTION; Schema: shop; Owner: -
--

CREATE FUNCTION shop.g(a integer) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (a > 1) THEN 1
             ELSE 2
         END AS "case";
END;


--
-- Name: pr(); Type: PROCEDURE; Schema: shop; Owner: -
--

CREATE PROCEDURE shop.pr()
    LANGUAGE plpgsql
    AS $$ BEGIN COMMIT; END $$;


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: t; Type: TABLE; Schema: shop; Owner: -
--

CREATE TABLE shop.t (
    id bigint NOT NULL,
    s shop.st DEFAULT 'a'::shop.st,
    x text DEFAULT 'it''s \ {{ ${x}'::text,
    j jsonb
);


--
-- Name: TABLE t; Type: COMMENT; Schema: shop; Owner: -
--

COMMENT ON TABLE shop.t IS 'it''s; \restrict a
\d';


--
-- Name: m; Type: MATERIALIZED VIEW; Schema: shop; Owner: -
--

CREATE MATERIALIZED VIEW shop.m AS
 SELECT count(*) AS count
   FROM shop.t
  WITH NO DATA;


--
-- Name: p; Type: TABLE; Schema: shop; Owner: -
--

CREATE TABLE shop.p (
    a integer,
    b text
)
PARTITION BY LIST (a);


--
-- Name: p1; Type: TABLE; Schema: shop; Owner: -
--

CREATE TABLE shop.p1 (
    a integer,
    b text
);


--
-- Name: t_id_seq; Type: SEQUENCE; Schema: shop; Owner: -
--

CREATE SEQUENCE shop.t_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: t_id_seq; Type: SEQUENCE OWNED BY; Schema: shop; Owner: -
--

ALTER SEQUENCE shop.t_id_seq OWNED BY shop.t.id;


--
-- Name: v; Type: VIEW; Schema: shop; Owner: -
--

CREATE VIEW shop.v AS
 SELECT t.x,
    t.j
   FROM shop.t
  WHERE (t.x ~~ '%\%'::text);


--
-- Name: p1; Type: TABLE ATTACH; Schema: shop; Owner: -
--

ALTER TABLE ONLY shop.p ATTACH PARTITION shop.p1 FOR VALUES IN (1);


--
-- Name: t id; Type: DEFAULT; Schema: shop; Owner: -
--

ALTER TABLE ONLY shop.t ALTER COLUMN id SET DEFAULT nextval('shop.t_id_seq'::regclass);


--
-- Data for Name: p1; Type: TABLE DATA; Schema: shop; Owner: -
--

INSERT INTO shop.p1 VALUES (1, 'tab	 cr
 end');


--
-- Data for Name: t; Type: TABLE DATA; Schema: shop; Owner: -
--

INSERT INTO shop.t VALUES (1, 'a', 'row 1
\. \restrict {{x}}', '{"a": "\\d"}');
INSERT INTO shop.t VALUES (2, 'a', 'row 2
\. \restrict {{x}}', '{"a": "\\d"}');


--
-- Name: t_id_seq; Type: SEQUENCE SET; Schema: shop; Owner: -
--

SELECT pg_catalog.setval('shop.t_id_seq', 2, true);


--
-- Name: t t_pkey; Type: CONSTRAINT; Schema: shop; Owner: -
--

ALTER TABLE ONLY shop.t
    ADD CONSTRAINT t_pkey PRIMARY KEY (id);


--
-- Name: v r; Type: RULE; Schema: shop; Owner: -
--

CREATE RULE r AS
    ON INSERT TO shop.v DO INSTEAD ( INSERT INTO shop.t (x)
  VALUES (new.x);
 SELECT 1 AS "?column?";
);


--
-- Name: t tr; Type: TRIGGER; Schema: shop; Owner: -
--

CREATE TRIGGER tr BEFORE UPDATE ON shop.t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();


--
-- Name: t pp; Type: POLICY; Schema: shop; Owner: -
--

CREATE POLICY pp ON shop.t USING ((x <> ''::text));


--
-- Name: t; Type: ROW SECURITY; Schema: shop; Owner: -
--

ALTER TABLE shop.t ENABLE ROW LEVEL SECURITY;

--
-- Name: m; Type: MATERIALIZED VIEW DATA; Schema: shop; Owner: -
--

REFRESH MATERIALIZED VIEW shop.m;


--
-- PostgreSQL database dump complete
--

\unrestrict 0Q1BnksMBBQgUAvSjpv6Ard6kqoVcdd0wHoOwMo62K7eGbrlHq1Wg1ZqkhuYlqg

