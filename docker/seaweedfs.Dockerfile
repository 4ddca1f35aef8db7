# SeaweedFS with everything it keeps in one directory, which its user may write to. The image's own
# filer.toml puts the names of the objects elsewhere, into a volume that ends with the container.
FROM chrislusf/seaweedfs:4.48
USER 0
RUN rm -f /etc/seaweedfs/filer.toml \
 && install -d -o 10001 -g 10001 /srv/seaweedfs
USER 10001
ENTRYPOINT ["weed"]
