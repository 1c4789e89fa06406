--
-- PostgreSQL database dump
--

\restrict DrWAY2c6GcRQ12tpGca4H0NxFEKu0jusvOhKZ9NXfjGEjNRpkg7qb7vHZOrm4ia

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'LATIN1';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: é; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public."é" (
    "ß" text
);


ALTER TABLE public."é" OWNER TO postgres;

--
-- Data for Name: é; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public."é" ("ß") FROM stdin;
ÿ
a
\.


--
-- PostgreSQL database dump complete
--

\unrestrict DrWAY2c6GcRQ12tpGca4H0NxFEKu0jusvOhKZ9NXfjGEjNRpkg7qb7vHZOrm4ia

