--
-- PostgreSQL database cluster dump
--

\restrict AElE9t6JFCD2me3xeETVL5cwoXLcp5wcRDA8xI3Oc2KXXYEorlRU74WfjTVqIaI

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

--
-- Roles
--

CREATE ROLE "Scan ""odd"" to role";
ALTER ROLE "Scan ""odd"" to role" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS;
CREATE ROLE scan_owner;
ALTER ROLE scan_owner WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE scan_reader;
ALTER ROLE scan_reader WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
COMMENT ON ROLE scan_reader IS '-- PostgreSQL database cluster dump complete
--

';

--
-- User Configurations
--

--
-- User Config "scan_reader"
--

ALTER ROLE scan_reader SET search_path TO E'a\\b', 'it''s';


--
-- Role memberships
--

GRANT scan_reader TO scan_owner WITH INHERIT TRUE GRANTED BY postgres;






\unrestrict AElE9t6JFCD2me3xeETVL5cwoXLcp5wcRDA8xI3Oc2KXXYEorlRU74WfjTVqIaI

--
-- PostgreSQL database cluster dump complete
--

