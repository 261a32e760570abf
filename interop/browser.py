"""What az opens in the place of a browser: signs in the user that the environment names."""

import os
import sys

from pages import Browser

Browser(os.environ["CARILLON_CA"]).sign_in(sys.argv[1], os.environ["CARILLON_TEST_USER"], os.environ["CARILLON_TEST_PASSWORD"])
