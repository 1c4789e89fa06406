--
-- PostgreSQL database cluster dump
--

\restrict asBdSIMstEVpHgkNalS2FW9flzGwxLqoohHVqkkgrVSm4y8zCHj93dAVnUPM1L6

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

GRANT scan_reader TO scan_owner GRANTED BY postgres;






\unrestrict asBdSIMstEVpHgkNalS2FW9flzGwxLqoohHVqkkgrVSm4y8zCHj93dAVnUPM1L6

--
-- PostgreSQL database cluster dump complete
--

