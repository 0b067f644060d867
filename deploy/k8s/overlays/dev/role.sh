# Makes the role that Dunlin works under, beside the superuser of the image: it owns the database, and whatever it is to begin with. The
# image executes this once, when its data directory is new.
set -e
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname "$POSTGRES_DB" --set role="$DUNLIN_ROLE" \
    --set password="$DUNLIN_PASSWORD" --set database="$POSTGRES_DB" <<'SQL'
CREATE ROLE :"role" LOGIN PASSWORD :'password';
ALTER DATABASE :"database" OWNER TO :"role";
SQL
if [ -f /target-data.sql ]; then
    PGOPTIONS="-c role=$DUNLIN_ROLE" psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname "$POSTGRES_DB" \
        --file /target-data.sql
fi
